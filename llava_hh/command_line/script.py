"""What the command lines of all verbs share: parsers, running a verb, and errors in one line."""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from safetensors import SafetensorError

from llava_hh.command_line.missing import missing_in_one_line
from llava_hh.command_line.parser import OUTPUT, ScriptParser
from llava_hh.command_line.profiles import NO_UTF8
from llava_hh.files.files import describe_failure, in_one_line, printable
from llava_hh.files.memory import is_out_of_memory, out_of_memory
from llava_hh.files.processes import processes
from llava_hh.files.progress import say
from llava_hh.files.signals import refuse_stopped
from llava_hh.files.tables import FORMATS
from llava_hh.models.hub_id import HubId

Chosen = TypeVar("Chosen")
INPUT_ERRORS = (ValueError, OSError, IndexError, NotImplementedError, SafetensorError, MemoryError)


def script_parser(description: str | None, verb: str, example: str) -> ScriptParser:
    """The parser of a verb.

    Args:
        description: the module's docstring.
        example: a whole command.
    """
    return ScriptParser(description, example, prog=f"llava-hh {verb}")


def parser_of_verbs(description: str | None, verb: str, *below: Callable[[ScriptParser], None]) -> ScriptParser:
    """The parser of a verb that has verbs below it, which `below` add by `ScriptParser.verb`."""
    end = f"llava-hh {verb} WHAT --help lists the flags of each, with an example."
    parser = ScriptParser(description, prog=f"llava-hh {verb}", epilog=end)
    for add in below:
        add(parser)
    return parser


def run_verb(
    argv: Sequence[str] | None = None,
    *,
    parser: Callable[[], ScriptParser],
    run: Callable[[argparse.Namespace], None] | None = None,
    check: Callable[[ScriptParser, argparse.Namespace], None] | None = None,
) -> None:
    """Parse a command line and run its verb; wrong input is one line.

    `functools.partial(run_verb, parser=..., run=...)` is the `main` of a script.

    Args:
        run: does the verb's work; None for a verb with verbs below it, which have their functions.
        check: ends with an error of the parser where flags do not go together.
    """
    command = parser()
    args = command.parse_args(argv)
    args.argv = list(sys.argv[1:] if argv is None else argv)
    if check:
        check(command, args)
    with missing_in_one_line(args.debug), errors_in_one_line(args.debug):
        refuse_other_encodings(vars(args))
        find_checkpoints(args)
        (run or args.run)(args)


def refuse_other_encodings(values: Mapping[str, Any]) -> None:
    """Refuse names that no result file, which is UTF-8, could hold.

    Raises:
        ValueError: the value of a flag, which may come from a profile.
    """
    for name, value in values.items():
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, str | Path) and NO_UTF8.search(str(each)):
                flag = "" if name == "argv" else f"--{name.replace('_', '-')} "
                raise ValueError(f"{flag}{str(each)!r}: not UTF-8; rename it, or give a link with another name")


def find_checkpoints(args: argparse.Namespace) -> None:
    """Put local folders in the place of repositories of the hub that flags name; they are fetched where necessary.

    Raises:
        OSError, ValueError: as `llava_hh.models.hub.local_folder`.
    """
    for name, value in vars(args).items():
        if isinstance(value, HubId):
            from llava_hh.models.hub import local_folder

            setattr(args, name, local_folder(value, any_kind=name == "base_model"))


def chosen(kind: type[Chosen], args: argparse.Namespace, **more: Any) -> Chosen:
    """A dataclass made of the flags that have the names of its fields; `more` are its other fields."""
    flags = {field.name: getattr(args, field.name) for field in fields(kind) if field.name not in more}
    return kind(**flags, **more)


def add_format_flag(parser: ScriptParser) -> None:
    """Add --format: how `llava_hh.files.tables.print_table` prints the result."""
    parser.flags(OUTPUT)("--format", FORMATS, "of the printed table", default=FORMATS[0])


@contextmanager
def errors_in_one_line(debug: bool) -> Iterator[None]:
    """Print a wrong input as one line and exit with status 2; with `debug`, let the traceback through.

    Unexpected errors are also reported in one line, with status 1.
    """
    try:
        yield
    except Exception as error:
        refuse_stopped()
        if debug or isinstance(error, ModuleNotFoundError):
            raise
        if isinstance(error, INPUT_ERRORS):
            _stop(describe_failure(error))
        if is_out_of_memory(error):
            _stop(out_of_memory(error))
        what = printable(f"{type(error).__name__}: {in_one_line(error)}")
        say(f"error, not foreseen: {what}; --debug shows where, please report it", file=sys.stderr)
        raise SystemExit(1) from None


def _stop(why: str) -> NoReturn:
    where = ""
    with suppress(ValueError):  # what is wrong may be what the launcher says
        team = processes()
        where = f" in process {team.rank} of {team.count}" if team.count > 1 else ""
    say(f"error{where}: {why}", file=sys.stderr)
    raise SystemExit(2) from None
