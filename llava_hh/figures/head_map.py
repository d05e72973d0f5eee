"""Heat map of the contrastive influence of every head, layer by head."""

from pathlib import Path

import numpy as np

from llava_hh.figures.style import DIVERGING, plt, save_figure
from llava_hh.runs import read_json

MARKED = 5  # heads that are named in the picture


def draw_head_map(attribution: Path, out: Path) -> None:
    """Draw attribution_result.json as `out`.png and `out`.pdf."""
    result = read_json(attribution)
    contrast = np.array(result["contrastive_influence"])
    n_layers, n_heads = contrast.shape
    height, width = min(9.0, 1.6 + 0.16 * n_layers), min(9.0, 2.6 + 0.24 * n_heads)
    figure, axis = plt.subplots(figsize=(width, height))
    limit = np.abs(contrast).max()
    image = axis.imshow(contrast, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto", origin="lower")
    marked: dict[int, list[int]] = {}
    for layer, head in result["hal_heads"][:MARKED]:
        marked.setdefault(layer, []).append(head)
        axis.plot(head, layer, "s", mfc="none", mec="black", ms=7)
    for layer, heads in marked.items():
        names = ", ".join(f"L{layer}H{head}" for head in sorted(heads))
        axis.annotate(
            names, (n_heads, layer), xytext=(n_heads - 0.3, layer), va="center", fontsize=7, annotation_clip=False
        )
    axis.set_xlabel("head")
    axis.set_ylabel("layer")
    axis.set_title(
        "Contrastive influence of every head\n"
        f"{result['n_hallucinated_tokens']} hallucinated, {result['n_non_hallucinated_tokens']} true object words",
        fontsize=9,
    )
    bar = figure.colorbar(image, ax=axis, pad=0.3)
    bar.set_label("drop of p(word): hallucinated minus true")
    save_figure(figure, out)
