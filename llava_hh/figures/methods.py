"""CHAIR_i and recall of decoding methods on the same images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llava_hh.comparing.summary import methods_of
from llava_hh.figures.style import GREEDY, LEADER, OTHER, PAGE, add_estimates, plt, role_colour, save_figure
from llava_hh.files.files import read_json

PANELS = {"CHAIRi": "CHAIR_i, % (lower is better)", "recall": "recall of objects, %"}


def draw_methods(source: Path, out: Path) -> None:
    """Draw a summary.json of evaluate as `out`.png and `out`.pdf; greedy decoding is the dashed line."""
    summary = read_json(source)
    methods = methods_of(summary)
    greedy = summary["methods"]["greedy"]
    rows = np.arange(len(methods))[::-1]  # the first method on top, as in the table
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 0.9 + 0.19 * len(methods)), sharey=True, layout="constrained")
    for axis, (metric, quantity) in zip(axes, PANELS.items(), strict=True):
        for row, (label, entry) in zip(rows, methods.items(), strict=True):
            if metric == "CHAIRi" and not entry["mentions"]:
                axis.text(100 * greedy[metric], row, " no object named", va="center", color=LEADER)
                continue
            value, ends = 100 * entry[metric], 100 * np.array(entry["interval"][metric])
            style = {"fmt": "o", "color": role_colour(label) or OTHER, "ms": 3.5, "capsize": 2, "lw": 1.2}
            add_estimates(axis, [row], [value], [ends], upright=False, **style)
        axis.axvline(100 * greedy[metric], color=GREEDY, lw=0.8, ls="--")
        axis.set_xlabel(quantity)
    axes[0].set_yticks(rows, [f"{label} ({entry['n']})" for label, entry in methods.items()])
    axes[0].set_ylim(-0.6, len(methods) - 0.4)
    save_figure(figure, out, f"{drawn_images(summary)}; in brackets: number of images")


def drawn_images(summary: Mapping[str, Any]) -> str:
    """Which images a comparison is of, and what its intervals are."""
    draw = summary["settings"].get("draw", summary["settings"])
    split = " ".join(draw[key] for key in ("dataset", "split") if draw.get(key, "coco") != "coco")
    return f"{summary['methods']['greedy']['n']} images of {split}, 95% bootstrap intervals"
