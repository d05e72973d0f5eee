"""Which flags at the end of a wrapper belong to which of its verbs; `share` of bash_scripts/flags.sh asks.

    python -m llava_hh.command_line.route "VERB ..." "VERB: FLAG ..." WORD ...

Prints VERB=WORD for each word that belongs to a verb, ended by the byte 037. An unknown flag or a wrong value is one
line, status 2.
"""

import importlib
import re
import sys
from collections.abc import Sequence

from llava_hh.command_line.missing import missing_in_one_line

with missing_in_one_line():
    from llava_hh.command_line.parser import ScriptParser
    from llava_hh.command_line.profiles import nearest
    from llava_hh.command_line.script import errors_in_one_line

END = "\x1f"  # of a word
NUMBER = re.compile(r"-\d+$|-\d*\.\d+$")  # which argparse takes for a value, not for a flag
FLAG = re.compile(r"(?:(\w+):)?(--?[^\W\d][\w-]*)(?:=(.*))?", re.DOTALL)


def parser_of(verb: str) -> ScriptParser:
    """The parser of a verb such as caption, or of one in a group, such as score.chair."""
    name, *below = verb.split(".")
    parser = importlib.import_module(f"llava_hh.scripts.{name}").parser()
    return parser.verbs.choices[below[0]] if below else parser


def label_of(verb: str) -> str:
    """What a verb is called in front of a flag, VERB:--flag."""
    return verb.split(".")[-1]


def share(
    verbs: Sequence[str], reserved: tuple[str, Sequence[str]], words: Sequence[str]
) -> dict[str, list[str]] | None:
    """The words that belong to each verb, by label; None where help was asked for, which is printed.

    Args:
        reserved: a label, and the flags that go to this verb alone though others know them too.
    Raises:
        ValueError: a flag that no verb knows, or that several flags begin with; a word that no flag takes.
        SystemExit: a value that a verb refuses; argparse has said so.
    """
    parsers = {label_of(verb): parser_of(verb) for verb in verbs}
    shares: dict[str, list[str]] = {label: [] for label in parsers}
    for flag, values in _split(words, parsers):
        label, name = _known(flag, parsers)
        if name in ("-h", "--help"):
            helps = [parser.format_help() for other, parser in parsers.items() if label in (None, other)]
            print(*helps, sep="\n", file=sys.stderr)
            return None
        if label is None and name in reserved[1]:
            label = reserved[0]
        for other, parser in parsers.items():
            if name in parser._option_string_actions and label in (None, other):
                shares[other] += [name if flag[3] is None else f"{name}={flag[3]}", *values]
    for label, parser in parsers.items():
        _see_that_it_parses(label, parser, shares[label])
    return shares


def _split(words: Sequence[str], parsers: dict[str, ScriptParser]) -> list[tuple[re.Match, list[str]]]:
    """Flags as FLAG reads them, each with the words behind it."""
    groups: list[tuple[re.Match, list[str]]] = []
    for word in words:
        match = None if NUMBER.match(word) else FLAG.fullmatch(word)
        if match and (match[1] is None or match[1] in parsers or match[2].startswith("--")):
            groups.append((match, []))
        elif groups:
            groups[-1][1].append(word)
        else:
            raise ValueError(f"{word!r}: expected a flag of {', '.join(parsers)}")
    return groups


def _known(flag: re.Match, parsers: dict[str, ScriptParser]) -> tuple[str | None, str]:
    """The verb that stands before a flag, if one does, and the flag's full name."""
    label, name, _ = flag.groups()
    if label is not None and label not in parsers:
        raise ValueError(f"{label}:{name}: no such verb here; expected one of {', '.join(parsers)}")
    asked = parsers.values() if label is None else [parsers[label]]
    names = sorted({option for parser in asked for option in parser._option_string_actions})
    full = [name] if name in names else [option for option in names if name[:2] == "--" and option.startswith(name)]
    if not full:
        where = ", ".join(parsers) if label is None else label
        raise ValueError(f"{name}: no such flag of {where}; did you mean {nearest(name, names)}?")
    if len(full) > 1:
        raise ValueError(f"{name}: could be {', '.join(full)}")
    return label, full[0]


def _see_that_it_parses(label: str, parser: ScriptParser, words: list[str]) -> None:
    """Parse what was given to a verb, without what the wrapper gives to it."""
    for action in [*parser._actions]:
        action.required = action.needed = False  # `needed` is what a profile may fill
        if not action.option_strings:
            parser._actions.remove(action)
    for group in parser._mutually_exclusive_groups:
        group.required = group.needed = False
    if left := parser.parse_known_args(words)[1]:
        raise ValueError(f"{' '.join(left)}: neither a flag of {label} nor a value of one")


def main(argv: Sequence[str] | None = None) -> None:
    verbs, reserved, *words = sys.argv[1:] if argv is None else argv
    sys.stdout.reconfigure(errors="surrogateescape")  # a word may hold any bytes
    label, _, flags = reserved.partition(":")
    with errors_in_one_line(debug=False):
        if broken := next((word for word in words if END in word), None):
            raise ValueError(f"{broken!r}: has the byte 037 (unit separator); expected words without")
        shares = share(verbs.split(), (label, flags.split()), words) or {}
    print(*(f"{name}={word}{END}" for name, given in shares.items() for word in given), sep="", end="")


if __name__ == "__main__":
    main()
