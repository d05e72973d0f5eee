"""Contrastive influence of every head, layer by head, and the strongest heads with their intervals."""

from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from llava_hh.attribution.summary import counted_words
from llava_hh.figures.style import DIVERGING, PAGE, TEXT, WRONG, plt, save_figure, whole_ticks
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
    size = {"figsize": (PAGE, _height_of(contrast)), "width_ratios": (1.7, 1)}
    figure, (left, right) = plt.subplots(1, 2, layout="constrained", **size)
    _draw_map(left, contrast, strongest, label)
    _draw_strongest(right, contrast, np.array(result["interval"]["contrastive_influence"], dtype=float), strongest)
    right.set_xlabel(label)
    ablation = f"{result['ablation']} ablation, " if "ablation" in result else ""
    save_figure(figure, out, f"Contrastive influence of attention heads\n{ablation}{counted_words(result)}")


def draw_source_maps(attribution: Path, out: Path) -> None:
    """Draw what heads do by reading each source, a map each in the same colours, as `out`.png and `out`.pdf."""
    result = read_json(attribution)
    parts = result["sources"]["by_source"]
    maps = {source: np.array(part["contrastive_influence"], dtype=float) for source, part in parts.items()}
    limit = max(np.nanmax(np.abs(contrast)) for contrast in maps.values())
    size = {"figsize": (PAGE, _height_of(next(iter(maps.values()))))}
    figure, axes = plt.subplots(1, len(maps), sharey=True, layout="constrained", squeeze=False, **size)
    for axis, (source, contrast) in zip(axes[0], maps.items(), strict=True):
        image = _draw_cells(axis, contrast, [tuple(head) for head in parts[source]["hal_heads"][:N_STRONGEST]], limit)
        axis.set_title(fill(f"reading {SOURCE_LABELS[source]}", 17))
    axes[0, 0].set_ylabel("layer")
    bar = figure.colorbar(image, ax=axes[0].tolist(), aspect=30)
    bar.set_label(f"{READ_OUT_LABELS[result['read_out']]}:\nhallucinated minus true")
    save_figure(
        figure, out, f"Contrastive influence of heads by what they read; numbers: ranks\n{counted_words(result)}"
    )


def influence_map(influence: np.ndarray, strongest: list[tuple[int, int]], title: str) -> Figure:
    """A figure of the influence of heads, (layer, head) fractions, with the ranks of the strongest in it."""
    figure = Figure(figsize=(0.6 * PAGE, _height_of(influence)), layout="constrained")
    _draw_map(figure.subplots(), influence, strongest, READ_OUT_LABELS["probability"])
    figure.suptitle(title)
    return figure


def _height_of(influence: np.ndarray) -> float:
    """The height of a figure of maps in inches."""
    return float(np.clip(0.12 * len(influence), 2.4, 6.0) + 1.0)


def _draw_map(axis: Axes, contrast: np.ndarray, strongest: list[tuple[int, int]], label: str) -> None:
    """A map with its own scale of colours."""
    image = _draw_cells(axis, contrast, strongest, np.nanmax(np.abs(contrast)) or 1.0)
    axis.set_ylabel("layer")
    scope = "grey: not measured" if np.isnan(contrast).any() else "all heads"
    axis.set_title(f"{scope}; numbers: ranks")
    axis.figure.colorbar(image, ax=axis, aspect=30).set_label(label)


def _draw_cells(axis: Axes, contrast: np.ndarray, strongest: list[tuple[int, int]], limit: float) -> AxesImage:
    """A cell for each head, and the ranks of the strongest in theirs, as large as the cells allow."""
    image = axis.imshow(contrast, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto", origin="lower")
    whole_ticks(axis, "x", "y")
    axis.set(xlabel="head", facecolor=NOT_MEASURED)
    bounds = axis.get_position()
    width, height = axis.get_figure(root=True).get_size_inches() * (bounds.width, bounds.height)
    font = min(TEXT, 0.8 * 72 * height / len(contrast), 72 * width / contrast.shape[1])
    for rank, (layer, head) in enumerate(strongest, start=1):
        # black is not readable on the dark end of the colours
        colour = "white" if contrast[layer, head] > 0.6 * limit else "black"
        axis.text(head, layer, str(rank), ha="center", va="center_baseline", fontsize=font, color=colour)
    return image


def _draw_strongest(axis: Axes, contrast: np.ndarray, intervals: np.ndarray, strongest: list[tuple[int, int]]) -> None:
    """Points with horizontal lines, the strongest on top.

    Args:
        intervals: (end, layer, head), low and high.
    """
    layers, heads = np.array(strongest).T
    rows = np.arange(len(strongest))
    axis.axvline(0, color="0.6", lw=0.8)
    axis.hlines(rows, *intervals[:, layers, heads], color=WRONG, lw=1.4)
    axis.plot(contrast[layers, heads], rows, "o", color=WRONG, ms=4.5)
    names = [f"{rank}  L{layer}H{head}" for rank, (layer, head) in enumerate(strongest, start=1)]
    axis.set_yticks(rows, names)
    axis.set_ylim(max(len(strongest), N_STRONGEST) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.locator_params(axis="x", nbins=5)
    axis.set_title("strongest heads, 95%\nbootstrap intervals over images")
