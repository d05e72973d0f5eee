"""Colours, sizes and saving, the same for every figure."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from llava_hh.files import replacing

GREEDY, WRONG = "#3b4252", "#d1495b"
DIVERGING = "RdBu_r"
RUN_COLOURS = (GREEDY, WRONG, "#30638e", "#edae49", "#00798c", "#8d6a9f", "#6a994e", "#8c564b")
GROUP_COLOURS = {"hal_heads": "#d1495b", "non_hal_heads": "#30638e"}
GROUP_LABELS = {"hal_heads": "hallucination heads", "non_hal_heads": "non-hallucination heads"}
plt.rcParams.update(
    {"figure.dpi": 150, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "pdf.fonttype": 42}
)


def save_figure(figure: Figure, path: Path) -> None:
    """Write `path`.png and `path`.pdf, the same bytes for the same data, and close the figure."""
    for ending, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
        with replacing(path.with_name(f"{path.name}.{ending}")) as part:
            figure.savefig(part, format=ending, bbox_inches="tight", metadata=metadata)
    plt.close(figure)
