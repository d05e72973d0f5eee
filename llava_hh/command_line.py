"""What every script's command line shares: a description, --debug, and errors in one line."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

from llava_hh.files import describe_failure, in_one_line
from llava_hh.processes import processes


def script_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that shows defaults and knows --debug; `description` is the module's docstring."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--debug", action="store_true", help="show a full traceback on errors")
    return parser


@contextmanager
def errors_in_one_line(debug: bool) -> Iterator[None]:
    """Print a wrong input as one line and exit with status 2; with `debug`, let the traceback through.

    What is no wrong input but a fault of ours is one line too, with status 1.
    """
    try:
        yield
    except (ValueError, OSError, IndexError, NotImplementedError, SafetensorError) as error:
        if debug:
            raise
        team = processes()
        where = f" in process {team.rank} of {team.count}" if team.count > 1 else ""
        print(f"error{where}: {describe_failure(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    except Exception as error:
        if debug:
            raise
        what = f"{type(error).__name__}: {in_one_line(error)}"
        print(f"error, not foreseen: {what}; --debug shows where, please report it", file=sys.stderr)
        raise SystemExit(1) from None
