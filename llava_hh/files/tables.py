"""Tables of results as Markdown, CSV and LaTeX, with estimates and their intervals as cells."""

import csv
import io
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TextIO

from llava_hh.files.progress import say

FORMATS = ("markdown", "csv", "latex")
_NAMED_SIGNS = ("backslash", "asciitilde", "asciicircum", "less", "greater", "bar", "quotedbl")
LATEX = dict(zip('\\~^<>|"', (f"\\text{name}{{}}" for name in _NAMED_SIGNS), strict=True))
LATEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"}


class Estimate(str):
    """A cell of a value and its interval, "39.6 (35.2 to 43.8)"; in CSV its three `numbers` are three columns."""

    numbers: tuple[str, str, str]

    def __new__(
        cls, value: float, interval: Sequence[float], factor: float = 1, form: str = ".1f", ends: str = ""
    ) -> "Estimate":
        """Format `value` and its interval, [low, high], times `factor`; `ends` formats the latter, if differently."""
        shown = f"{factor * value:{form}}"
        low, high = (f"{factor * end:{ends or form}}" for end in interval)
        cell = super().__new__(cls, f"{shown} ({low} to {high})")
        cell.numbers = (shown, low, high)
        return cell


@dataclass(frozen=True)
class Table:
    """Heads of columns, rows of as many cells, and what has to be known to read them.

    Raises:
        ValueError: a row with another number of cells.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows, start=1):
            if len(row) != len(self.heads):
                raise ValueError(f"row {number} of a table has {len(row)} cells; expected {len(self.heads)}")

    def markdown(self) -> str:
        """The table, and under an empty line the note."""

        def line(cells: Iterable[str]) -> str:
            return "| " + " | ".join(_in_one_line(cell).replace("|", "\\|") for cell in cells) + " |"

        lines = [line(self.heads), "|---" * len(self.heads) + "|", *map(line, self.rows)]
        return "\n".join([*lines, *(["", self.note] if self.note else [])])

    def csv(self) -> str:
        """Comma-separated values without the note; a column of estimates becomes three: value, low and high."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        widths = [3 if any(isinstance(row[n], Estimate) for row in self.rows) else 1 for n in range(len(self.heads))]
        heads = [(head, f"{head} low", f"{head} high") for head in self.heads]
        rows = [[getattr(cell, "numbers", (cell, "", "")) for cell in row] for row in self.rows]
        for row in (heads, *rows):
            writer.writerow([text for texts, width in zip(row, widths, strict=True) for text in texts[:width]])
        return text.getvalue().removesuffix("\n")

    def latex(self) -> str:
        """A plain tabular, for which LaTeX needs no package; the note is a comment above it."""

        def line(cells: Iterable[str]) -> str:
            return f"{' & '.join(map(_latex, cells))} \\\\"

        begin = ["\\begin{tabular}{" + "l" * len(self.heads) + "}", "\\hline", line(self.heads), "\\hline"]
        note = [f"% {_in_one_line(self.note)}"] if self.note else []
        return "\n".join([*note, *begin, *map(line, self.rows), "\\hline", "\\end{tabular}"])


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> str:
    """A table as Markdown; its cells are text."""
    return Table(heads, rows, note).markdown()


def print_table(table: Table, form: str = "markdown") -> None:
    """Print a table in one of FORMATS. The note of CSV goes to stderr, so that stdout is the table alone."""
    if form not in FORMATS:
        raise ValueError(f"format {form!r} is not known; expected one of: {', '.join(FORMATS)}")
    say({"markdown": table.markdown, "csv": table.csv, "latex": table.latex}[form]())
    if form == "csv" and table.note:
        say(table.note, sys.stderr)


def beside(form: str) -> TextIO:
    """Where to print what stands beside a table: in a file of CSV or LaTeX the table is alone."""
    return sys.stdout if form == "markdown" else sys.stderr


def _in_one_line(text: str) -> str:
    return " ".join(str(text).splitlines())


def _latex(cell: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in _in_one_line(cell)).replace(r"\textless{}=", r"$\le$")
