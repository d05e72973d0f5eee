"""What every script's command line shares: a description, --debug, types of numbers, and errors in one line."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError

from llava_hh.files import describe_failure, in_one_line, printable
from llava_hh.memory import is_out_of_memory, out_of_memory
from llava_hh.processes import processes


@dataclass(frozen=True)
class Number:
    """A type of argparse: numbers of a `kind` within bounds, which NaN is never.

    Raises:
        ArgumentTypeError: any other text; argparse puts the flag in front of it.
    """

    kind: type[int] | type[float]
    expected: str
    allows: Callable[[float], bool]

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
RANDOM_SEED = Number(int, "a whole number from 0 to 2**32 - 1", lambda value: 0 <= value < 2**32)  # numpy's bounds
RATE = Number(float, "a number above 0", lambda value: 0 < value < inf)
FACTOR = Number(float, "a number of at least 0", lambda value: 0 <= value < inf)
FRACTION = Number(float, "a fraction from 0 to 1", lambda value: 0 <= value <= 1)
OUTPUTS = ("out", "summary")  # flags of what is written
SHARE = Number(float, "a fraction from 0 to below 1", lambda value: 0 <= value < 1)


class ScriptParser(argparse.ArgumentParser):
    """A parser that shows defaults, and whose errors are one line."""

    def __init__(self, description: str | None = None, **named: Any) -> None:
        super().__init__(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, **named)

    def parse_args(self, *arguments: Any, **named: Any) -> argparse.Namespace:  # type: ignore[override]
        """The flags; an output that is also an input is an error, for it would be overwritten."""
        args = super().parse_args(*arguments, **named)
        given = {name: value if isinstance(value, list) else [value] for name, value in vars(args).items()}
        read = {
            os.path.realpath(path) for name in given if name not in OUTPUTS for path in given[name] if _is_path(path)
        }
        for name in OUTPUTS:
            written = getattr(args, name, None)
            if _is_path(written) and os.path.realpath(written) in read:
                self.error(f"--{name} {written}: is an input of this run; expected another")
        return args

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; --help lists the flags\n")


def _is_path(value: object) -> bool:
    return isinstance(value, Path)


def script_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that shows defaults and knows --debug; `description` is the module's docstring."""
    parser = ScriptParser(description)
    parser.add_argument("--debug", action="store_true", help="show a full traceback on errors")
    return parser


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
