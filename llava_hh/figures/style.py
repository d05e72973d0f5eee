"""Colours, sizes, drawing and saving, the same for every figure."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from llava_hh.files.files import describe_failure, replacing

GREEDY, WRONG = "#3b4252", "#d1495b"
DIVERGING = "RdBu_r"
RUN_COLOURS = (GREEDY, WRONG, "#30638e", "#edae49", "#00798c", "#8d6a9f", "#6a994e", "#8c564b")
GROUP_COLOURS = {"hal_heads": "#d1495b", "non_hal_heads": "#30638e"}
GROUP_LABELS = {"hal_heads": "hallucination heads", "non_hal_heads": "non-hallucination heads"}
plt.rcParams.update(
    {"figure.dpi": 150, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "pdf.fonttype": 42}
)
plt.rcParams["text.parse_math"] = False  # captions and names of runs may hold dollar signs
ENDINGS = {"png": {"Software": None}, "pdf": {"CreationDate": None}}  # and the metadata, which holds no time


@contextmanager
def picture(path: Path, debug: bool, said: TextIO | None = None) -> Iterator[Path]:
    """Draw `path`.png and `path`.pdf in the block, after the result was written and printed; then print the name.

    A picture that cannot be drawn is one line on stderr and no error, because the result stands without it. The files
    of an earlier picture are deleted then, because they show another result.

    Args:
        debug: let the error through; said: where the name is printed, None: stdout.
    """
    try:
        yield path
    except Exception as error:
        plt.close("all")
        delete_picture(path)
        if debug:
            raise
        what = " ".join(f"{type(error).__name__}: {describe_failure(error)}".split())
        print(f"warning: {path}.png could not be drawn: {what}; --debug shows where", file=sys.stderr)
    else:
        print(f"{path}.png", file=said)


def delete_picture(path: Path) -> None:
    """Delete the files of a picture of an earlier result, if they are there."""
    for ending in ENDINGS:
        with suppress(OSError):
            path.with_name(f"{path.name}.{ending}").unlink()


def save_figure(figure: Figure, path: Path) -> None:
    """Write `path`.png and `path`.pdf, the same bytes for the same data, and close the figure.

    A character that the font lacks is drawn as a box.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
        for ending, metadata in ENDINGS.items():
            with replacing(path.with_name(f"{path.name}.{ending}")) as part:
                figure.savefig(part, format=ending, bbox_inches="tight", metadata=metadata)
    plt.close(figure)
