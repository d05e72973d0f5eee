"""Colours, sizes, drawing and saving, the same for every figure."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from itertools import cycle
from pathlib import Path
from typing import Any, TextIO

import matplotlib
import numpy as np

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llava_hh.figures.drawn import STYLES
from llava_hh.files.files import describe_failure, replacing
from llava_hh.files.progress import say

COLUMN, PAGE = 3.3, 6.8  # widths of figures in inches: one column of a paper, and both
TEXT = 8  # points: all text of figures, but for ranks inside the cells of a map
# one colour a role: hallucinated words and the heads behind them, true words and theirs, AD-HH, controls
WRONG, TRUE, ADHH, CONTROL = "#d1495b", "#30638e", "#009e73", "#e0a030"
GREEDY, OTHER, LEADER = "#3b4252", "#7b8794", "0.35"  # untouched model; other methods; lines from points to labels
ONE, TWO = "#7b5ea7", "#8c564b"  # of pairs that have no role
DIVERGING = "RdBu_r"
FURTHER = (ONE, TWO, "#56b4e9", "#6a994e", "#cc79a7", OTHER)
GROUP_COLOURS = {"hal_heads": WRONG, "non_hal_heads": TRUE, "other_heads": OTHER, "same_layers": CONTROL}
GROUP_LABELS = {
    "hal_heads": "hallucination heads",
    "non_hal_heads": "non-hallucination heads",
    "other_heads": "all other heads",
    "same_layers": "other heads of the same layers",
}
plt.rcParams.update({"figure.dpi": 200, "axes.spines.top": False, "axes.spines.right": False})
# fmt: off
SIZED = ("font.size", "figure.titlesize", "axes.titlesize", "axes.labelsize", "xtick.labelsize", "ytick.labelsize",
         "legend.fontsize", "legend.title_fontsize")
# fmt: on
plt.rcParams.update({**dict.fromkeys(SIZED, TEXT), "legend.frameon": False, "legend.handlelength": 1.5})
plt.rcParams.update({"pdf.fonttype": 42, "text.parse_math": False})  # captions and names may hold dollar signs
_STYLE = ContextVar("style", default=STYLES[0])
ENDINGS = {"png": {"Software": None}, "pdf": {"CreationDate": None}}  # and the metadata, which holds no time


@contextmanager
def in_style(name: str) -> Iterator[None]:
    """Draw in one of STYLES in the block; on paper a figure has no title, since its caption says what it shows.

    Sizes and text are the same in both: figures are 3.3 or 6.8 inches wide, and their text has 8 points.
    """
    token = _STYLE.set(name)
    try:
        yield
    finally:
        _STYLE.reset(token)


@contextmanager
def picture(path: Path, debug: bool, said: TextIO | None = None) -> Iterator[Path]:
    """Draw `path`.png and `path`.pdf in the block, after the result was written and printed; then print the name.

    A picture that cannot be drawn is one line on stderr and no error, because the result stands without it. The files
    of an earlier picture are deleted then, because they show another result.

    Args:
        debug: raise the error; said: where the name is printed, None: stdout.
    """
    try:
        yield path
    except Exception as error:
        plt.close("all")
        delete_picture(path)
        if debug:
            raise
        what = " ".join(f"{type(error).__name__}: {describe_failure(error)}".split())
        say(f"warning: {path}.png could not be drawn: {what}; --debug shows where", file=sys.stderr)
    else:
        say(f"{path}.png", *([said] if said else []))


def delete_picture(path: Path) -> None:
    """Delete the files of a picture of an earlier result, if they are there."""
    for ending in ENDINGS:
        with suppress(OSError):
            path.with_name(f"{path.name}.{ending}").unlink()


def add_estimates(axis: Axes, positions: Any, values: Any, intervals: Any, upright: bool = True, **style: Any) -> None:
    """Draw values at positions with their intervals, (value, end); NaN is not drawn.

    An estimate may lie outside its percentile interval; its line then ends at the estimate.

    Args:
        upright: whether the values are heights.
    """
    values, (low, high) = np.asarray(values, dtype=float), np.array(intervals, dtype=float).T
    spread = np.maximum((values - low, high - values), 0)
    if upright:
        axis.errorbar(positions, values, yerr=spread, **style)
    else:
        axis.errorbar(values, positions, xerr=spread, **style)


def add_legend(*axes: Axes, outside: bool = False, **style: Any) -> None:
    """A legend of axes that names each label once, outside of them if asked; nothing where there are no labels."""
    handles: dict[str, Any] = {}
    for axis in axes:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    if handles:
        legend = axes[0].figure.legend if outside else axes[0].legend
        legend(handles.values(), handles.keys(), **style)


def colours_of(labels: Sequence[str]) -> list[str]:
    """A colour for each run or method by its label in tables: those with a role have that role's."""
    further = cycle(FURTHER)
    return [role_colour(label) or next(further) for label in labels]


def role_colour(label: str) -> str | None:
    """The colour of a run or method whose label in tables says that it has a role; None for any other."""
    roles = {"greedy": GREEDY, "random": CONTROL, "AD-HH": ADHH}
    return next((colour for name, colour in roles.items() if name in label), None)


def whole_ticks(axis: Axes, *names: str) -> None:
    """Put ticks at whole numbers only, on the named axes (x, y)."""
    for name in names:
        getattr(axis, f"{name}axis").get_major_locator().set_params(integer=True)


def save_figure(figure: Figure, path: Path, title: str = "") -> None:
    """Write `path`.png and `path`.pdf, the same bytes for the same data, and close the figure.

    A character that the font lacks is drawn as a box.

    Args:
        title: above all panels, left out on paper.
    """
    if title and _STYLE.get() != "paper":
        figure.suptitle(title)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
        for ending, metadata in ENDINGS.items():
            with replacing(path.with_name(f"{path.name}.{ending}")) as part:
                figure.savefig(part, format=ending, metadata=metadata)
    plt.close(figure)
