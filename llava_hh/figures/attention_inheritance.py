"""Figure 4: attention from text to text in the model and in its base, and how alike it is in groups of heads."""

from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm

from llava_hh.figures.style import GROUP_COLOURS, GROUP_LABELS, PAGE, add_estimates, add_legend, plt, save_figure
from llava_hh.files.files import read_json

MODELS = {"lvlm": "vision-language model", "base": "its base model"}
SPREAD = 0.3  # of the points of a group, to both sides of its row


def draw_attention_inheritance(source: Path, out: Path) -> None:
    """Draw attention_inheritance.json as `out`.png and `out`.pdf; hollow marks are the paper's values.

    Left: square root of the attention among the tokens after the image of one caption, each map to its own maximum.
    Right: heads as small points, in their order from top to bottom, and the mean of each group with its interval.
    """
    result = read_json(source)
    figure = plt.figure(figsize=(PAGE, 3.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1))
    axes = left.subplots(len(result["examples"]), len(MODELS), squeeze=False, sharex=True, sharey=True)
    for (group, example), pair in zip(result["examples"].items(), axes, strict=True):
        _draw_example(pair, group, example)
    for axis, label in zip(axes[0], MODELS.values(), strict=True):
        axis.set_title(label)
    for axis in axes[-1]:
        axis.set_xlabel("key (token)")
    _draw_groups(right.subplots(), result)
    about = f"{result['n_captions']} captions, 95% bootstrap intervals of the means"
    save_figure(figure, out, f"Text attention of the model and of its base: {about}")


def _draw_example(axes: np.ndarray, group: str, example: dict) -> None:
    layer, head = example["head"]
    side = example["n_tokens"]
    for axis, model in zip(axes, MODELS, strict=True):
        cells = np.array(example[model])
        # cells have one size; the last may stand for fewer tokens and then reaches beyond them
        end = len(cells) * example["tokens_per_cell"]
        seen = np.where(np.tril(np.ones_like(cells, dtype=bool)), cells, np.nan)
        norm = PowerNorm(0.5, vmin=0, vmax=cells.max() or 1)
        axis.imshow(seen, cmap="viridis", norm=norm, extent=(0, end, end, 0), interpolation="nearest")
        axis.set(xlim=(0, side), ylim=(side, 0))
    kind = GROUP_LABELS[group].removesuffix(" heads")
    axes[0].set_ylabel(f"{kind}\nhead L{layer}H{head}\nquery (token)")
    right_end = {"ha": "right", "va": "top", "transform": axes[1].transAxes}
    axes[1].text(0.98, 0.97, f"cosine {example['similarity']:.2f}", **right_end)


def _draw_groups(axis: Axes, result: dict) -> None:
    of_heads, paper = np.array(result["similarity"]), result.get("paper", {})  # layer head
    for row, (group, summary) in enumerate(result["groups"].items()):
        mean, colour = summary["mean"], GROUP_COLOURS[group]
        values = of_heads[*np.transpose(summary["heads"])]
        axis.plot(values, row + np.linspace(-SPREAD, SPREAD, len(values)), "o", color=colour, ms=2.5, alpha=0.6, mew=0)
        interval = summary["interval"]["mean"]
        in_front = {"fmt": "o", "color": "black", "mfc": colour, "ms": 4, "lw": 1.2, "capsize": 5, "zorder": 3}
        add_estimates(axis, [row], [mean], [interval], upright=False, **in_front)
        axis.text(mean, row - SPREAD - 0.06, f"{mean:.3f}", ha="center", va="bottom")
        for name, value in paper.get(group, {}).items():
            axis.plot(value, row, "D", mfc="none", mec="black", ms=6, label="paper: one head, one image")
            axis.annotate(name, (value, row), xytext=(0, -6), textcoords="offset points", ha="center", va="top")
    for edge in paper.get("range_of_means", ()):
        axis.axvline(edge, color="black", ls=":", lw=0.9, label="paper: range of its means")
    add_legend(axis, outside=True, loc="outside lower center")
    groups = result["groups"].items()
    labels = [f"{fill(GROUP_LABELS[group], 17)}\n({len(summary['heads'])})" for group, summary in groups]
    axis.set_yticks(range(len(labels)), labels)
    axis.set(xlim=(0, 1.02), ylim=(len(labels) - 0.5, -0.65), xlabel="cosine similarity to the base model")
