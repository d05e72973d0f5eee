"""CHAIR_i over recall for every tried setting of AD-HH, a panel for each number of heads."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from llava_hh.figures.labels import add_labels
from llava_hh.figures.style import ADHH, GREEDY, LEADER, PAGE, add_legend, plt, save_figure
from llava_hh.files.files import read_json

PANELS = 4  # side by side
MARKER = 3.5  # points


def draw_trade_off(sweep: Path, out: Path) -> None:
    """Draw choice.json of evaluate as `out`.png and `out`.pdf; numbers beside the points are thresholds."""
    content = read_json(sweep)
    greedy, chosen = content["greedy"], content["chosen"]
    tops = sorted({point["top_k"] for point in content["points"]})
    of_size = {
        top_k: sorted((p for p in content["points"] if p["top_k"] == top_k), key=lambda point: point["threshold"])
        for top_k in tops
    }
    n_rows = -(-len(tops) // PANELS)
    grid = {"sharex": True, "sharey": True, "squeeze": False, "layout": "constrained"}
    figure, axes = plt.subplots(n_rows, min(PANELS, len(tops)), figsize=(PAGE, 0.9 + 1.9 * n_rows), **grid)
    for axis in axes.flat[len(tops) :]:
        axis.axis("off")
    for axis, top_k in zip(axes.flat, tops, strict=False):
        for points in of_size.values():
            axis.plot(*_places(points).T, color="0.88", lw=1, zorder=0)
        axis.plot(*_places(of_size[top_k]).T, "o-", color=ADHH, ms=MARKER, lw=1, label="AD-HH, by threshold")
        axis.plot(*_places([greedy]).T, "*", color=GREEDY, ms=9, label="greedy")
        if chosen and chosen["top_k"] == top_k:
            ring = {"mfc": "none", "mec": "black", "ms": 9, "mew": 1, "label": "chosen"}
            axis.plot(*_places([chosen]).T, "o", **ring)
        axis.set_title(f"top {top_k} head{'s' * (top_k > 1)}")
    for axis, top_k in zip(axes.flat, tops, strict=False):
        _add_thresholds(axis, of_size[top_k])
    for axis in axes[-1]:
        axis.set_xlabel("recall of objects, %")
    for axis in axes[:, 0]:
        axis.set_ylabel("CHAIR_i, %\n(lower is better)")
    add_legend(*axes.flat, outside=True, loc="outside lower center", ncols=3)
    save_figure(figure, out, f"AD-HH by number of heads and threshold, {greedy['n']} train2014 images")


def _places(points: list[dict]) -> np.ndarray:
    """Recall and CHAIR_i in percent, (point, 2)."""
    return 100 * np.array([(point["recall"], point["CHAIRi"]) for point in points])


def _add_thresholds(axis: Axes, points: list[dict]) -> None:
    names = [f"{point['threshold']:g}" for point in points]
    add_labels(axis, _places(points), names, [MARKER / 2] * len(points), [LEADER] * len(points))
