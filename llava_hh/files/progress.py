"""Messages of long work: what will run, how far it is, and how long the rest takes."""

import os
import sys
import time
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm

from llava_hh.files.files import printable
from llava_hh.files.processes import processes
from llava_hh.files.signals import flush_stdout

STDOUT = "stdout"  # that of now, not of when this file was imported
reached = ""  # how far the work is, as " after block 12 of 25": for who stops it


def reach(done: int, total: int, unit: str, label: str) -> None:
    """Note how far the work is: units that are finished, of a total."""
    global reached
    reached = f" after {unit} {done} of {total} ({label})"


def say(text: object = "", file: TextIO | None | str = STDOUT) -> None:
    """Print a text on stdout, or another stream, beside bars; control characters, which names may hold, as escapes.

    A stream that was closed before the start is None; nothing is printed there. Ends where stdout cannot be written.
    """
    stream = sys.stdout if file is STDOUT else file
    if stream is not None and stream is sys.stdout:
        flush_stdout(lambda: tqdm.write(printable(str(text)), file=stream))
    elif stream is not None:
        tqdm.write(printable(str(text)), file=stream)


def announce(text: str) -> None:
    """Print a line on stderr, in the first process alone; stdout is for results."""
    if processes().is_main:
        say(text, sys.stderr)


def progress(
    label: str, unit: str, items: Iterable | None = None, total: int | None = None, hidden: bool = False, **more: Any
) -> tqdm:
    """A bar over items, or up to a total: on a terminal alone, in the first process alone, and not if `hidden`."""
    disable = hidden or not processes().is_main or not is_on_terminal()
    return tqdm(items, desc=label, unit=unit, total=total, disable=disable, **more)


def is_on_terminal() -> bool:
    """Whether stderr is a terminal, maybe behind the pipe of `llava_hh.command_line.launched`."""
    return bool(os.environ.get("LLAVA_HH_ON_TERMINAL")) or (sys.stderr is not None and sys.stderr.isatty())


class Forecast:
    """Says how long the rest of some work takes, once, by the rate of its first part."""

    def __init__(self, label: str, unit: str) -> None:
        self.label, self.unit, self.begun, self.said = label, unit, 0.0, False

    def begin(self) -> None:
        """A part of the work begins."""
        self.begun = time.monotonic()

    def end(self, done: int, later: Iterable[int]) -> None:
        """The part ends: `done` units were done, and `later` yields the units of every part that is left."""
        if not self.said and (left := sum(later)):
            rate = done / max(time.monotonic() - self.begun, 1e-9)
            form = ".0f" if rate >= 10 else ".2g"
            about = f"about {in_words(left / rate)}, at {rate:{form}} {self.unit}s a second"
            announce(f"{self.label}: {left} {self.unit}{'s are' if left > 1 else ' is'} left: {about}")
        self.said = True


def in_words(seconds: float) -> str:
    """A duration to two digits: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
