"""Colours, sizes, drawing and saving, the same for every figure."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import matplotlib
import numpy as np

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llava_hh.files.files import describe_failure, replacing
from llava_hh.files.progress import say

COLUMN, PAGE = 3.3, 6.8  # widths of figures in inches: one column of a paper, and both
TEXT = 8  # points
GREEDY, WRONG, ADHH = "#3b4252", "#d1495b", "#009e73"
OTHER, LEADER = "#7b8794", "0.35"  # other methods; lines from points to their labels
DIVERGING = "RdBu_r"
RUN_COLOURS = (GREEDY, WRONG, "#30638e", "#edae49", "#00798c", "#8d6a9f", "#6a994e", "#8c564b")
GROUP_COLOURS = {"hal_heads": WRONG, "non_hal_heads": "#30638e", "other_heads": GREEDY, "same_layers": "#edae49"}
GROUP_LABELS = {
    "hal_heads": "hallucination heads",
    "non_hal_heads": "non-hallucination heads",
    "other_heads": "all other heads",
    "same_layers": "other heads of the same layers",
}
plt.rcParams.update({"figure.dpi": 150, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
plt.rcParams.update({"pdf.fonttype": 42, "text.parse_math": False})  # captions and names may hold dollar signs
ENDINGS = {"png": {"Software": None}, "pdf": {"CreationDate": None}}  # and the metadata, which holds no time


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


def add_legend(axis: Axes, outside: bool = False, **style: Any) -> None:
    """A small legend that names each label once, outside the axes if asked; nothing where there are no labels."""
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    if handles:
        legend = axis.figure.legend if outside else axis.legend
        legend(handles.values(), handles.keys(), fontsize=7, frameon=False, **style)


def whole_ticks(axis: Axes, *names: str) -> None:
    """Put ticks at whole numbers only, on the named axes (x, y)."""
    for name in names:
        getattr(axis, f"{name}axis").get_major_locator().set_params(integer=True)


def save_figure(figure: Figure, path: Path, title: str = "", fontsize: float = 9) -> None:
    """Write `path`.png and `path`.pdf, the same bytes for the same data, and close the figure.

    A character that the font lacks is drawn as a box.

    Args:
        title: above all panels; fontsize: of the title.
    """
    if title:
        figure.suptitle(title, fontsize=fontsize)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
        for ending, metadata in ENDINGS.items():
            with replacing(path.with_name(f"{path.name}.{ending}")) as part:
                figure.savefig(part, format=ending, bbox_inches="tight", metadata=metadata)
    plt.close(figure)
