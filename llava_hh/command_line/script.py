"""What every script's command line shares: a description, --debug, types of numbers, and errors in one line."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from math import inf
from typing import Any, NoReturn, TypeVar

from safetensors import SafetensorError

from llava_hh.command_line.parser import OUTPUT, ScriptParser, add_common_flags, epilog
from llava_hh.files.files import describe_failure, in_one_line, printable
from llava_hh.files.memory import is_out_of_memory, out_of_memory
from llava_hh.files.processes import processes
from llava_hh.files.tables import FORMATS

Chosen = TypeVar("Chosen")


@dataclass(frozen=True)
class Number:
    """A type of argparse: numbers of a `kind` within bounds, which NaN is never.

    Raises:
        ArgumentTypeError: any other text; argparse puts the flag in front of it.
    """

    kind: type[int] | type[float]
    expected: str
    allows: Callable[[float], bool]
    metavar: str = "N"

    def __call__(self, text: str) -> float:
        try:
            value = self.kind(text)
        except ValueError:
            value = None
        if value is None or not self.allows(value):
            raise argparse.ArgumentTypeError(f"{text!r}: expected {self.expected}")
        return value


SIZE = Number(int, "a whole number of at least 1", lambda value: value >= 1)
COUNT = Number(int, "a whole number of at least 0", lambda value: value >= 0)
# numpy's bounds
RANDOM_SEED = Number(int, "a whole number from 0 to 2**32 - 1", lambda value: 0 <= value < 2**32, "SEED")
RATE = Number(float, "a number above 0", lambda value: 0 < value < inf, "NUMBER")
FACTOR = Number(float, "a number of at least 0", lambda value: 0 <= value < inf, "NUMBER")
FRACTION = Number(float, "a fraction from 0 to 1", lambda value: 0 <= value <= 1, "FRACTION")
SHARE = Number(float, "a fraction from 0 to below 1", lambda value: 0 <= value < 1, "FRACTION")


def script_parser(description: str | None, verb: str = "", example: str = "") -> ScriptParser:
    """The parser of a verb.

    Args:
        description: the module's docstring; example: a whole command.
    """
    parser = ScriptParser(description=description, prog=f"llava-hh {verb}" if verb else None, epilog=epilog(example))
    add_common_flags(parser)
    return parser


def parser_of_verbs(description: str | None, verb: str, *below: Callable[[ScriptParser], None]) -> ScriptParser:
    """The parser of a verb that has verbs below it, which `below` add by `ScriptParser.verb`."""
    end = f"llava-hh {verb} WHAT --help lists the flags of each, with an example."
    parser = ScriptParser(description=description, prog=f"llava-hh {verb}", epilog=end)
    for add in below:
        add(parser)
    return parser


def run_verb(parser: ScriptParser, argv: Sequence[str] | None) -> None:
    """Do what the chosen verb below a verb does; wrong input is one line."""
    args = parser.parse_args(argv)
    args.argv = list(sys.argv[1:] if argv is None else argv)
    with errors_in_one_line(args.debug):
        args.run(args)


def chosen(kind: type[Chosen], args: argparse.Namespace, **more: Any) -> Chosen:
    """A dataclass whose fields are flags of the same names, but for `more`."""
    flags = {each.name: getattr(args, each.name) for each in fields(kind) if each.name not in more}
    return kind(**flags, **more)


def add_format_flag(parser: ScriptParser) -> None:
    """Add --format: how `llava_hh.files.tables.print_table` prints the result."""
    parser.section(OUTPUT).add_argument("--format", choices=FORMATS, default=FORMATS[0], help="of the printed table")


@contextmanager
def errors_in_one_line(debug: bool) -> Iterator[None]:
    """Print a wrong input as one line and exit with status 2; with `debug`, let the traceback through.

    What is no wrong input but a fault of ours is one line too, with status 1.
    """
    try:
        yield
    except (ValueError, OSError, IndexError, NotImplementedError, SafetensorError, MemoryError) as error:
        if debug:
            raise
        _stop(describe_failure(error))
    except Exception as error:
        if debug:
            raise
        if is_out_of_memory(error):
            _stop(out_of_memory(error))
        what = printable(f"{type(error).__name__}: {in_one_line(error)}")
        print(f"error, not foreseen: {what}; --debug shows where, please report it", file=sys.stderr)
        raise SystemExit(1) from None


def _stop(why: str) -> NoReturn:
    where = ""
    with suppress(ValueError):  # what is wrong may be what the launcher says
        team = processes()
        where = f" in process {team.rank} of {team.count}" if team.count > 1 else ""
    print(f"error{where}: {why}", file=sys.stderr)
    raise SystemExit(2) from None
