"""Contrastive influence of every head, layer by head, and the strongest heads with their intervals."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure

from llava_hh.attribution.summary import counted_words
from llava_hh.figures.style import DIVERGING, GREEDY, plt, save_figure, whole_ticks
from llava_hh.files.files import read_json

N_STRONGEST = 10
NOT_MEASURED = "0.85"  # grey
SOURCE_LABELS = {
    "image": "the image",
    "after": "the text after it",
    "answer": "the answer so far",
    "elsewhere": "itself and what stands before the image",
}
READ_OUT_LABELS = {
    "probability": "drop of p(word)",
    "absolute": "absolute change of p(word)",
    "log": "drop of log p(word), nats",
}


def draw_head_map(attribution: Path, out: Path) -> None:
    """Draw attribution_result.json as `out`.png and `out`.pdf.

    The heads on the right were chosen by the scores that are drawn, so those scores are biased upwards a little; the
    intervals are not corrected for that.
    """
    result = read_json(attribution)
    contrast = np.array(result["contrastive_influence"], dtype=float)  # layer head, NaN where it was not measured
    strongest = [tuple(head) for head in result["hal_heads"][:N_STRONGEST]]
    label = f"{READ_OUT_LABELS[result['read_out']]}:\nhallucinated minus true"
    width, height = _size_of(contrast)
    widths = {"figsize": (width + 4.7, height + 1.2), "width_ratios": (width + 0.8, 2.5)}
    figure, (left, right) = plt.subplots(1, 2, layout="constrained", **widths)
    _draw_map(left, contrast, strongest, label).ax.tick_params(labelsize=8)
    _draw_strongest(right, contrast, np.array(result["interval"]["contrastive_influence"], dtype=float), strongest)
    right.set_xlabel(label, fontsize=8)
    ablation = f"{result['ablation']} ablation, " if "ablation" in result else ""
    save_figure(figure, out, f"Contrastive influence of attention heads\n{ablation}{counted_words(result)}")


def draw_source_maps(attribution: Path, out: Path) -> None:
    """Draw what heads do by reading each source, a map each in the same colours, as `out`.png and `out`.pdf."""
    result = read_json(attribution)
    parts = result["sources"]["by_source"]
    maps = {source: np.array(part["contrastive_influence"], dtype=float) for source, part in parts.items()}
    limit = max(np.nanmax(np.abs(contrast)) for contrast in maps.values())
    width, height = _size_of(next(iter(maps.values())))
    size = {"figsize": ((width + 1.4) * len(maps), height + 1.2)}
    figure, axes = plt.subplots(1, len(maps), layout="constrained", squeeze=False, **size)
    for axis, (source, contrast) in zip(axes[0], maps.items(), strict=True):
        strongest = [tuple(head) for head in parts[source]["hal_heads"][:N_STRONGEST]]
        label = f"{READ_OUT_LABELS[result['read_out']]}:\nhallucinated minus true"
        _draw_map(axis, contrast, strongest, label, limit).ax.tick_params(labelsize=8)
        axis.set_title(f"by reading {SOURCE_LABELS[source]}", fontsize=8)
    save_figure(figure, out, f"What heads do by reading\n{counted_words(result)}; numbers are ranks")


def influence_map(influence: np.ndarray, strongest: list[tuple[int, int]], title: str) -> Figure:
    """A figure of the influence of heads, (layer, head) fractions, with the ranks of the strongest in it."""
    width, height = _size_of(influence)
    figure = Figure(figsize=(width + 2.2, height + 1.2), layout="constrained")
    _draw_map(figure.subplots(), influence, strongest, READ_OUT_LABELS["probability"])
    figure.suptitle(title, fontsize=9)
    return figure


def _size_of(influence: np.ndarray) -> np.ndarray:
    """Width and height of a map in inches."""
    n_layers, n_heads = influence.shape
    return np.clip((0.25 * n_heads, 0.18 * n_layers), (1.8, 2.4), (5.6, 7.0))


def _draw_map(
    axis: Axes, contrast: np.ndarray, strongest: list[tuple[int, int]], label: str, limit: float | None = None
) -> Colorbar:
    limit = limit or np.nanmax(np.abs(contrast)) or 1.0
    image = axis.imshow(contrast, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto", origin="lower")
    font = min(6.0, *(42 * _size_of(contrast)[::-1] / contrast.shape))
    for rank, (layer, head) in enumerate(strongest, start=1):
        # black is not readable on the dark end of the colours
        colour = "white" if contrast[layer, head] > 0.6 * limit else "black"
        axis.text(head, layer, str(rank), ha="center", va="center", fontsize=font, color=colour)
    whole_ticks(axis, "x", "y")
    axis.tick_params(labelsize=8)
    axis.set(xlabel="head", ylabel="layer", facecolor=NOT_MEASURED)
    scope = "grey: not measured" if np.isnan(contrast).any() else "all heads"
    axis.set_title(f"{scope}; numbers are ranks", fontsize=8)
    bar = axis.figure.colorbar(image, ax=axis, aspect=30)
    bar.set_label(label, fontsize=8)
    return bar


def _draw_strongest(axis: Axes, contrast: np.ndarray, intervals: np.ndarray, strongest: list[tuple[int, int]]) -> None:
    """Points with horizontal lines, the strongest on top.

    Args:
        intervals: (end, layer, head), low and high.
    """
    layers, heads = np.array(strongest).T
    rows = np.arange(len(strongest))
    axis.axvline(0, color="0.6", lw=0.8)
    axis.hlines(rows, *intervals[:, layers, heads], color=GREEDY, lw=1.4)
    axis.plot(contrast[layers, heads], rows, "o", color=GREEDY, ms=4.5)
    names = [f"{rank}  L{layer}H{head}" for rank, (layer, head) in enumerate(strongest, start=1)]
    axis.set_yticks(rows, names, fontsize=8)
    axis.set_ylim(max(len(strongest), N_STRONGEST) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.locator_params(axis="x", nbins=5)
    axis.tick_params(axis="x", labelsize=8)
    axis.set_title("strongest heads, 95% bootstrap\nintervals over images", fontsize=8)
