"""Figure 3: the parts of attention of both groups of heads, and every head as a point."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from llava_hh.figures.style import GROUP_COLOURS, GROUP_LABELS, PAGE, add_estimates, add_legend, plt, save_figure
from llava_hh.files.files import read_json

PARTS = {
    "image_mass": "image",
    "after_image_mass": "after the image",
    "generated_mass": "of that:\nanswer so far",
    "rest_mass": "before\nthe image",
}
KINDS = {"hallucinated": ("//", "hallucinated words"), "true": ("", "true words")}


def draw_attention_bias(source: Path, out: Path) -> None:
    """Draw attention_bias.json as `out`.png and `out`.pdf; hollow marks are the paper's values."""
    result = read_json(source)
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 3.2), width_ratios=(1.9, 1), layout="constrained")
    _draw_parts(left, result)
    _draw_heads(right, result)
    words = f"{result['n_words']} words of {result['n_captions']} captions"
    title = f"Attention where an object word is predicted; {words}, 95% bootstrap intervals over images"
    save_figure(figure, out, title)


def _draw_parts(axis: Axes, result: dict) -> None:
    width = 0.2
    for row, (group, summary) in enumerate(result["groups"].items()):
        for column, (kind, (hatch, label)) in enumerate(KINDS.items()):
            if summary[kind] is None:
                continue
            positions = np.arange(len(PARTS)) + (2 * row + column - 1.5) * width
            means = [summary[kind][part]["mean"] for part in PARTS]
            style = {"color": GROUP_COLOURS[group], "edgecolor": "white", "hatch": hatch}
            axis.bar(positions, means, width, label=f"{len(summary['heads'])} {GROUP_LABELS[group]}, {label}", **style)
            intervals = [summary[kind][part]["interval"]["mean"] for part in PARTS]
            add_estimates(axis, positions, means, intervals, fmt="none", ecolor="black", lw=0.9, capsize=1.5)
        for part, value in result.get("paper", {}).get(group, {}).items():
            position = list(PARTS).index(part) + (2 * row - 1) * width
            axis.plot(position, value, "D", mfc="none", mec="black", ms=6, label="paper" if row == 0 else None)
    axis.set_xticks(range(len(PARTS)), PARTS.values())
    axis.set_ylabel("attention mass (fraction)")
    add_legend(axis, outside=True, loc="outside lower center", ncols=2)


def _draw_heads(axis: Axes, result: dict) -> None:
    for group, summary in result["groups"].items():
        points = np.array([(head["image_mass"], head["after_image_mass"]) for head in summary["heads"]])
        axis.plot(*points.T, "o", color=GROUP_COLOURS[group], ms=4.5, alpha=0.8)
    axis.plot([0, 1], [1, 0], color="0.7", lw=0.8)  # nothing lies beyond: the parts sum to 1
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="mass on the image", ylabel="mass after the image")
    axis.set_title("each head, all words")
