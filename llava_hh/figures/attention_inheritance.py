"""Figure 4: attention from text to text in the model and in its base, and how alike it is in groups of heads."""

from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm

from llava_hh.figures.style import GROUP_COLOURS, GROUP_LABELS, add_estimates, add_legend, plt, save_figure
from llava_hh.files.files import read_json

MODELS = {"lvlm": "vision-language model", "base": "base language model"}
MAPS = """Attention among the {} tokens after the image of one caption;
colour: square root of each map's attention, to its own maximum"""
BARS = """bars: mean of the group, 95% bootstrap interval over captions;
points: its heads, by rank, all others by layer"""


def draw_attention_inheritance(source: Path, out: Path) -> None:
    """Draw attention_inheritance.json as `out`.png and `out`.pdf; hollow marks are the paper's values."""
    result = read_json(source)
    figure = plt.figure(figsize=(9.5, 5.0), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1))
    axes = left.subplots(len(result["examples"]), len(MODELS), squeeze=False)
    for (group, example), pair in zip(result["examples"].items(), axes, strict=True):
        _draw_example(pair, group, example)
    left.suptitle(MAPS.format(next(iter(result["examples"].values()))["n_tokens"]), fontsize=8)
    _draw_groups(right.subplots(), result)
    right.suptitle(BARS, fontsize=8)
    save_figure(figure, out, f"Attention inherited from the base language model, {result['n_captions']} captions")


def _draw_example(axes: np.ndarray, group: str, example: dict) -> None:
    layer, head = example["head"]
    side = example["n_tokens"]
    for axis, (model, label) in zip(axes, MODELS.items(), strict=True):
        cells = np.array(example[model])
        # cells have one size; the last may stand for fewer tokens and then reaches beyond them
        end = len(cells) * example["tokens_per_cell"]
        seen = np.where(np.tril(np.ones_like(cells, dtype=bool)), cells, np.nan)
        norm = PowerNorm(0.5, vmin=0, vmax=cells.max() or 1)
        axis.imshow(seen, cmap="viridis", norm=norm, extent=(0, end, end, 0), interpolation="nearest")
        axis.set(xlim=(0, side), ylim=(side, 0))
        axis.set_title(label, fontsize=8)
        axis.tick_params(labelsize=7)
        axis.set_xlabel("key (token)", fontsize=7)
        axis.set_ylabel("query (token)", fontsize=7)
    axes[0].set_ylabel(f"{GROUP_LABELS[group].removesuffix('s')} L{layer}H{head}\nquery (token)", fontsize=7)
    axes[1].set_title(f"{MODELS['base']}; cosine {example['similarity']:.2f}", fontsize=8)


def _draw_groups(axis: Axes, result: dict) -> None:
    of_heads, paper = np.array(result["similarity"]), result.get("paper", {})  # layer head
    for index, (group, summary) in enumerate(result["groups"].items()):
        mean, colour = summary["mean"], GROUP_COLOURS[group]
        axis.bar(index, mean, 0.7, color=colour, alpha=0.45)
        interval = summary["interval"]["mean"]
        in_front = {"fmt": "none", "ecolor": "black", "lw": 1.2, "capsize": 4, "zorder": 3}  # of hundreds of points
        add_estimates(axis, [index], [mean], [interval], **in_front)
        values = of_heads[*np.transpose(summary["heads"])]
        axis.plot(index + np.linspace(-0.3, 0.3, len(values)), values, "o", color=colour, ms=2.5, alpha=0.7)
        axis.text(index, 0.02, f"{mean:.3f}", ha="center", fontsize=7)
    for index, group in enumerate(result["groups"]):
        for name, value in paper.get(group, {}).items():
            axis.plot(index, value, "D", mfc="none", mec="black", ms=7, label="paper: one head, one image")
            axis.annotate(name, (index, value), xytext=(7, 0), textcoords="offset points", fontsize=7, va="center")
    for edge in paper.get("range_of_means", ()):
        axis.axhline(edge, color="black", ls=":", lw=0.9, label="paper: range of its means")
    add_legend(axis, outside=True, loc="outside lower center")
    groups = result["groups"].items()
    labels = [f"{fill(GROUP_LABELS[group], 17)}\n({len(summary['heads'])})" for group, summary in groups]
    axis.set_xticks(range(len(labels)), labels, fontsize=7)
    axis.set_ylim(0, 1.02)
    axis.set_ylabel("cosine similarity to the base model", fontsize=8)
    axis.tick_params(axis="y", labelsize=8)
