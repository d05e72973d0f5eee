"""Figure 6: metrics over the factor on the attention of hallucination heads, with random heads as a band."""

from pathlib import Path

import numpy as np

from llava_hh.figures.style import CONTROL, PAGE, WRONG, add_estimates, add_legend, plt, save_figure
from llava_hh.files.files import read_json

PANELS = {"CHAIRi": ("CHAIR_i, %", 100), "recall": ("recall, %", 100), "mentions": ("mentions a caption", 1)}
SPANS = {"after_image": "attention\nafter the image", "image": "attention\non the image"}


def draw_attention_reweight(source: Path, out: Path) -> None:
    """Draw attention_reweight_<span>.json as `out`.png and `out`.pdf; hollow marks are the paper's CHAIR_i."""
    result = read_json(source)
    alphas, points, random_heads, span = (result[name] for name in ("alphas", "hal_heads", "random_heads", "span"))
    figure, axes = plt.subplots(1, 3, figsize=(PAGE, 2.6), layout="constrained")
    for axis, (metric, (label, factor)) in zip(axes, PANELS.items(), strict=True):
        if random_heads:
            drawn = factor * np.array([[draw[metric] for draw in point["draws"]] for point in random_heads])
            axis.fill_between(alphas, drawn.min(1), drawn.max(1), color=CONTROL, alpha=0.25, lw=0)
            axis.plot(alphas, drawn.mean(1), color=CONTROL, label=f"random heads, {drawn.shape[1]} draws")
        means = factor * np.array([point[metric] for point in points])
        intervals = factor * np.array([point["interval"][metric] for point in points])
        style = {"color": WRONG, "marker": "o", "ms": 3, "lw": 1.2, "capsize": 2, "label": "hallucination heads"}
        add_estimates(axis, alphas, means, intervals, **style)
        if metric == "CHAIRi" and "paper" in result:
            paper = result["paper"]
            for group, name, colour in (("hal_heads", "hallucination", WRONG), ("random_heads", "random", CONTROL)):
                values = factor * np.array(paper[group])
                axis.plot(paper["alpha"], values, "D", mfc="none", mec=colour, label=f"paper, {name} heads")
        axis.set(xlabel=f"factor on {SPANS[span]}", ylabel=label)
        axis.set_ylim(bottom=0)
        if span == "after_image":
            axis.invert_xaxis()  # from untouched to removed, as in the paper
    add_legend(axes[0], outside=True, loc="outside lower center", ncols=2)
    settings = result["settings"]
    scaled = " ".join(SPANS[span].split()).capitalize()
    title = f"{scaled} of the top {settings['top_k']} heads, scaled; {result['n']} images"
    save_figure(figure, out, f"{title} of {settings['split']}\n95% bootstrap intervals; band: range of the draws")
