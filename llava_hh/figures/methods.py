"""CHAIR_i and recall of decoding methods on the same images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llava_hh.comparing.summary import methods_of
from llava_hh.figures.style import GREEDY, WRONG, add_estimates, plt, save_figure
from llava_hh.files.files import read_json

PANELS = {"CHAIRi": "CHAIR_i, % (lower is better)", "recall": "recall of objects, %"}


def draw_methods(source: Path, out: Path) -> None:
    """Draw a summary.json of evaluate as `out`.png and `out`.pdf; greedy decoding is the dashed line."""
    summary = read_json(source)
    methods = methods_of(summary)
    greedy = summary["methods"]["greedy"]
    rows = np.arange(len(methods))[::-1]  # the first method on top, as in the table
    figure, axes = plt.subplots(1, 2, figsize=(8, 1.2 + 0.35 * len(methods)), sharey=True, layout="constrained")
    for axis, (metric, label) in zip(axes, PANELS.items(), strict=True):
        values = 100 * np.array([entry[metric] for entry in methods.values()])
        intervals = 100 * np.array([entry["interval"][metric] for entry in methods.values()])
        add_estimates(axis, rows, values, intervals, upright=False, fmt="o", color=WRONG, ms=4, capsize=2, lw=1.2)
        axis.axvline(100 * greedy[metric], color=GREEDY, lw=0.8, ls="--")
        axis.set_xlabel(label)
    axes[0].set_yticks(rows, list(methods))
    save_figure(figure, out, drawn_images(summary))


def drawn_images(summary: Mapping[str, Any]) -> str:
    """Which images a comparison is of, and what its intervals are."""
    draw = summary["settings"].get("draw", summary["settings"])
    split = " ".join(draw[key] for key in ("dataset", "split") if draw.get(key, "coco") != "coco")
    return f"{summary['methods']['greedy']['n']} images of {split}, 95% bootstrap intervals"
