"""The parser of every command: helps that can be read, values from a profile, and verbs below a verb."""

import argparse
import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from inspect import cleandoc
from pathlib import Path
from textwrap import fill
from typing import Any, NoReturn

from llava_hh.command_line.profiles import REPO, read_profile
from llava_hh.files.files import printable
from llava_hh.heads import literal_heads
from llava_hh.models.hub_id import checkpoint, read_id
from llava_hh.runs.plugins import load_plugin

OUTPUTS = ("out", "summary")  # flags of what is written
SECTIONS = MODEL, METHOD, SPEED, OUTPUT = "model and images", "method", "size and speed", "output"
FILE, FOLDER, CHECKPOINT = "FILE", "FOLDER", "CHECKPOINT"  # what flags of paths take
KINDS: dict[str, Callable[[str], Any]] = {FILE: Path, FOLDER: Path, CHECKPOINT: checkpoint}
NOT_GIVEN = object()
STORING = (argparse._StoreAction, argparse._StoreConstAction, argparse.BooleanOptionalAction)
NAME = re.compile(r"\{(\w+)(?:\|(\w+))?\}")
Known = Mapping[str, Any]  # settings of a profile, and the flags so far
# Such as "{coco_path}/{split}"; "{limit|all}" has a text for a name without a value. A flag of several values has a
# template of several words, or a list of templates.
Template = str | Callable[[Known], str | list[str]]


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Paragraphs stay paragraphs; what a flag takes, its default, and that a profile knows it, are shown."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = re.split(r"\n\s*\n", text.strip())
        return "\n\n".join(part if "\n  " in part else fill(" ".join(part.split()), width) for part in parts)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return getattr(action.type, "metavar", None) or super()._get_default_metavar_for_optional(action)

    def _get_help_string(self, action: argparse.Action) -> str:
        default, text = action.default, action.help or ""
        notes = ["required"] if action.required or getattr(action, "needed", False) else []
        if isinstance(default, tuple | list):
            default = " ".join(map(str, default))
        if default not in (None, "", argparse.SUPPRESS) and default is not False and "default" not in text:
            notes.append(f"default: {default}".replace("%", "%%"))
        if template := getattr(action, "template", None):
            names = NAME.sub(lambda match: f"${match[1]}", template) if isinstance(template, str) else ""
            notes.append(f"profile: {names}" if names else "profile")
        return f"{text} ({'; '.join(notes)})" if notes else text


class ScriptParser(argparse.ArgumentParser):
    """A parser with flags in sections, values from a profile, and errors in one line.

    Attributes:
        given: after parsing, the names of the flags that stood in the command line.
        default_profile: that of a command line with neither --profile nor --model, None where there is none.
        instead: by a flag's name, the flags that no profile fills and that may be left out where it is given.
        verbs: argparse's action of the verbs below this one, None where there are none.
    """

    def __init__(self, description: str | None = None, example: str = "", **named: Any) -> None:
        """Make a parser; that of a verb has an `example`, a whole command, and the flags that every verb has."""
        super().__init__(description=description, formatter_class=Help, **named)
        self.given: set[str] = set()
        self.default_profile: str | None = None
        self.instead: dict[str, set[str]] = {}
        self._sections = {title: self.add_argument_group(title) for title in SECTIONS}
        self._templates: dict[str, Template] = {}
        self.verbs: Any = None
        if example:
            self.epilog = f"example:\n  {example}"
            add = self.add_argument
            add("--debug", action="store_true", help="show a full traceback on errors")
            text = "run this Python file first: it registers methods, metrics or families of yours"
            add("--plugin", type=Path, action="append", default=[], metavar="FILE.py", help=text)

    def section(self, title: str) -> Any:
        """The group of flags of one of SECTIONS."""
        return self._sections[title]

    def flags(self, title: str) -> Callable[..., argparse.Action]:
        """`add_flag` for one of SECTIONS."""
        return partial(self.add_flag, self._sections[title])

    def one_of(self, title: str, required: bool = False) -> Callable[..., argparse.Action]:
        """`add_flag` for flags in one of SECTIONS that exclude each other."""
        return partial(self.add_flag, self._sections[title].add_mutually_exclusive_group(required=required))

    def add_flag(
        self, group: Any, name: str, kind: Any, text: str, profile: Template | None = None, **named: Any
    ) -> argparse.Action:
        """Add a flag to a group of argparse, or a positional argument to this parser.

        Args:
            kind: what it takes: bool for a switch; FILE, FOLDER or CHECKPOINT (a folder, or org/name of the hub);
                another text names what it takes in the help; a type of numbers, such as SIZE; or the choices.
            text: its help.
            profile: what fills it, see `take_from_profile`.
            named: other arguments of argparse's `add_argument`.
        """
        if kind is bool:
            named["action"] = "store_true"
        elif isinstance(kind, str):
            named |= {"metavar": kind} | ({"type": KINDS[kind]} if kind in KINDS else {})
        else:
            named["type" if callable(kind) else "choices"] = kind
        action = group.add_argument(name, help=text, **named)
        if profile is not None:
            self.take_from_profile(**{action.dest: profile})
        return action

    def verb(
        self, name: str, run: Callable[[argparse.Namespace], None], example: str, about: str | None = None
    ) -> "ScriptParser":
        """Add a verb below this one; its flags are added to the parser that is returned.

        Args:
            run: does its work; it stands in the parsed flags as `run`.
            example: a whole command.
            about: its help, if it isn't the docstring of `run`; the first sentence is its line in this parser's help.
        """
        if self.verbs is None:
            self.verbs = self.add_subparsers(required=True, dest="what", metavar="WHAT", title="what")
        about = cleandoc(about or run.__doc__ or "")
        line = about.split("\n\n")[0].split(": ")[0].removesuffix(".")
        below = self.verbs.add_parser(name, help=line, description=about, example=example)
        below.set_defaults(run=run)
        return below

    def take_from_profile(self, **templates: Template) -> None:
        """Add --profile, which fills these flags, in this order, where they are not given.

        A required flag may then be left out. A template with a name that has no value fills nothing; a function makes
        the template from what is known.
        """
        if not self._templates:
            text = "fill flags that are not given: a name in bash_scripts/profiles, or the path of such a file"
            self.add_argument("--profile", metavar="NAME", help=text)
        self._templates |= templates
        for action in self._actions:
            if action.dest in templates:
                is_positional = not action.option_strings
                action.template = templates[action.dest]  # type: ignore[attr-defined]
                is_needed = is_positional or action.required or getattr(action, "needed", False)
                action.needed = is_needed  # type: ignore[attr-defined]
                action.required = False
                if is_positional:
                    action.nargs = "*" if action.nargs == "+" else action.nargs or "?"
        for group in self._mutually_exclusive_groups:
            if group.required and any(action.dest in templates for action in group._group_actions):
                group.needed, group.required = True, False  # type: ignore[attr-defined]

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def, override]
        """Parse as argparse does, and fill in what a profile knows."""
        actions = {action.dest: action for action in self._actions if isinstance(action, STORING)}
        namespace = argparse.Namespace() if namespace is None else namespace
        values = vars(namespace)
        values.update(dict.fromkeys(actions, NOT_GIVEN))
        namespace, rest = super().parse_known_args(args, namespace)
        absent = {name for name in actions if values[name] is NOT_GIVEN}
        absent |= {name for name, each in actions.items() if not each.option_strings and values[name] in (None, [])}
        self.given = {*actions} - absent
        for name in absent:
            default = actions[name].default
            values[name] = self._get_value(actions[name], default) if isinstance(default, str) else default
        if self.default_profile and not self.given & {"profile", "model"}:
            values["profile"] = self.default_profile
        excused = {name for flag in self.given & {*self.instead} for name in self.instead[flag]}
        if self._templates and values["profile"] is not None:
            self._fill(values, actions, excused)
        self._count_heads(values)
        needed = {name for name, each in actions.items() if getattr(each, "needed", False)}
        self.require(namespace, *(needed - excused))
        for group in self._mutually_exclusive_groups:
            lacking = all(values[each.dest] in (None, False) for each in group._group_actions)
            if lacking and getattr(group, "needed", False):
                names = " ".join(map(_spelled, group._group_actions))
                self.error(f"one of the arguments {names} is required (or --profile NAME)")
        return namespace, rest

    def _count_heads(self, values: dict[str, Any]) -> None:
        """Heads that are written out are taken whole: --top-k, where there is one, is how many they are."""
        heads = literal_heads(values.get("heads"))
        if not heads or "top_k" not in values:
            return
        if "top_k" in self.given and values["top_k"] != len(heads):
            self.error(f"--top-k {values['top_k']}: --heads names {len(heads)}; leave it out, or give {len(heads)}")
        values["top_k"] = len(heads)

    def _fill(self, values: dict[str, Any], actions: Mapping[str, argparse.Action], excused: set[str]) -> None:
        """Put what the profile knows into the flags that are not given, and not excused."""
        profile = values["profile"]
        try:
            settings = read_profile(profile)
        except ValueError as error:
            self.error(str(error))
        for name, template in self._templates.items():
            action = actions[name]
            groups = (each._group_actions for each in self._mutually_exclusive_groups)
            others = {other.dest for group in groups if action in group for other in group}
            if {name, *others} & self.given or name in excused:
                continue
            known = {key: value for key, value in values.items() if value is not None} | settings
            wanted = template(known) if callable(template) else template
            if isinstance(wanted, str):
                wanted = wanted.split() if action.nargs in ("*", "+") else [wanted]
            texts = [filled(text, known) for text in wanted]
            if not texts or not all(texts):
                continue
            if action.type in KINDS.values() and Path.cwd() != REPO:
                texts = [_from_root(text, action.type) for text in texts]
            try:
                values[name] = action.const if action.nargs == 0 else self._get_values(action, texts)
            except argparse.ArgumentError as error:
                self.error(f"--profile {profile}: {error}")

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def, override]
        """The flags, after plug-ins were run; an output that is also an input is an error: it would be overwritten."""
        parsed = super().parse_args(args, namespace)
        for path in getattr(parsed, "plugin", ()):
            try:
                load_plugin(path)
            except (OSError, ValueError) as error:
                self.error(str(error))
        listed = {name: value if isinstance(value, list) else [value] for name, value in vars(parsed).items()}
        paths = (path for name, values in listed.items() if name not in OUTPUTS for path in values)
        read = {os.path.realpath(path) for path in paths if isinstance(path, Path)}
        for name in OUTPUTS:
            written = getattr(parsed, name, None)
            if isinstance(written, Path) and os.path.realpath(written) in read:
                self.error(f"--{name} {written}: is an input of this run; expected another")
        return parsed

    def refuse_given(self, why: str, names: set[str]) -> None:
        """End with an error where one of these flags was given."""
        if wrong := sorted(self.given & names):
            self.error(f"--{wrong[0].replace('_', '-')}: {why}")

    def require(self, args: argparse.Namespace, *names: str) -> None:
        """End with an error where one of these flags has no value."""
        missing = [name for name in names if getattr(args, name) in (None, [])]
        if spelled := [_spelled(each) for each in self._actions if each.dest in missing]:
            self.error(f"the following arguments are required: {', '.join(spelled)} (or --profile NAME)")

    def error(self, message: str) -> NoReturn:
        self.exit(2, printable(f"error: {' '.join(message.split())}; --help lists the flags") + "\n")


def filled(template: str, known: Known) -> str:
    """A template with what is known in it; "" where one of its names has no value."""
    values = {match[0]: str(known.get(match[1], "")) or match[2] for match in NAME.finditer(template)}
    return NAME.sub(lambda match: values[match[0]], template) if all(values.values()) else ""


def _from_root(text: str, kind: Any) -> str:
    """A path of a profile, which counts from the repository's root; names that are no paths stay."""
    is_name = text == "published" or (kind is checkpoint and read_id(text, REPO))
    return text if is_name else str(REPO / text)


def _spelled(action: argparse.Action) -> str:
    return action.option_strings[-1] if action.option_strings else action.dest
