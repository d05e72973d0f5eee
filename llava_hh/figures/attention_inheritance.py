"""Figure 4: attention from text to text in the model and in its base, and how alike it is in groups of heads."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm

from llava_hh.figures.style import GREEDY, GROUP_COLOURS, GROUP_LABELS, plt, save_figure
from llava_hh.files.files import read_json

COLOURS = {**GROUP_COLOURS, "other_heads": GREEDY}
LABELS = {**GROUP_LABELS, "other_heads": "all other heads"}
MODELS = {"lvlm": "vision-language model", "base": "base language model"}


def draw_attention_inheritance(source: Path, out: Path) -> None:
    """Draw attention_inheritance.json as `out`.png and `out`.pdf; the paper's values, where it has them, hollow."""
    result = read_json(source)
    figure = plt.figure(figsize=(9.5, 5.0), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1))
    axes = left.subplots(len(result["examples"]), len(MODELS), squeeze=False)
    for (group, example), pair in zip(result["examples"].items(), axes, strict=True):
        _draw_example(pair, group, example)
    n_tokens = next(iter(result["examples"].values()))["n_tokens"]
    left.suptitle(
        f"Attention among the {n_tokens} tokens after the image of one caption;\n"
        "colour: square root of each map's attention, to its own maximum",
        fontsize=8,
    )
    _draw_groups(right.subplots(), result)
    right.suptitle(
        "bars: mean of the group, 95% bootstrap interval over captions;\n"
        "points: its heads, by rank, the other heads by layer",
        fontsize=8,
    )
    figure.suptitle(f"Attention inherited from the base language model, {result['n_captions']} captions", fontsize=9)
    save_figure(figure, out)


def _draw_example(axes: np.ndarray, group: str, example: dict) -> None:
    layer, head = example["head"]
    side = example["n_tokens"]
    for axis, (model, label) in zip(axes, MODELS.items(), strict=True):
        cells = np.array(example[model])
        # cells have one size; the last may stand for fewer tokens and then reaches beyond them
        end = len(cells) * example["tokens_per_cell"]
        seen = np.tril(np.ones_like(cells, dtype=bool))
        axis.imshow(
            np.where(seen, cells, np.nan),
            cmap="viridis",
            norm=PowerNorm(0.5, vmin=0, vmax=cells.max() or 1),
            extent=(0, end, end, 0),
            interpolation="nearest",
        )
        axis.set(xlim=(0, side), ylim=(side, 0))
        axis.set_title(label, fontsize=8)
        axis.tick_params(labelsize=7)
        axis.set_xlabel("key (token)", fontsize=7)
        axis.set_ylabel("query (token)", fontsize=7)
    axes[0].set_ylabel(f"{LABELS[group].removesuffix('s')} L{layer}H{head}\nquery (token)", fontsize=7)
    axes[1].set_title(f"{MODELS['base']}; cosine {example['similarity']:.2f}", fontsize=8)


def _draw_groups(axis: Axes, result: dict) -> None:
    of_heads = np.array(result["similarity"])  # layer head
    for place, (group, summary) in enumerate(result["groups"].items()):
        low, high = summary["interval"]["mean"]
        mean, colour = summary["mean"], COLOURS[group]
        axis.bar(place, mean, 0.7, color=colour, alpha=0.45)
        axis.errorbar(place, mean, [[mean - low], [high - mean]], fmt="none", ecolor="black", lw=1.2, capsize=4)
        values = of_heads[tuple(np.array(summary["heads"]).T)]
        axis.plot(place + np.linspace(-0.3, 0.3, len(values)), values, "o", color=colour, ms=2.5, alpha=0.7)
        axis.text(place, 0.02, f"{mean:.3f}", ha="center", fontsize=7)
    paper = result.get("paper", {})
    for place, group in enumerate(result["groups"]):
        for name, value in paper.get(group, {}).items():
            axis.plot(place, value, "D", mfc="none", mec="black", ms=7, label="paper: one head, one image")
            axis.annotate(name, (place, value), xytext=(7, 0), textcoords="offset points", fontsize=7, va="center")
    for edge in paper.get("range_of_means", ()):
        axis.axhline(edge, color="black", ls=":", lw=0.9, label="paper: range of its means")
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    if handles:
        axis.figure.legend(handles.values(), handles.keys(), fontsize=7, frameon=False, loc="outside lower center")
    labels = [f"{LABELS[group]}\n({len(summary['heads'])})" for group, summary in result["groups"].items()]
    axis.set_xticks(range(len(labels)), [label.replace(" heads", "\nheads") for label in labels], fontsize=8)
    axis.set_ylim(0, 1.02)
    axis.set_ylabel("cosine similarity to the base model", fontsize=8)
    axis.tick_params(labelsize=8)
