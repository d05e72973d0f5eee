"""Figure 6: metrics over the factor on the attention of hallucination heads, with random heads as a band."""

from pathlib import Path

import numpy as np

from llava_hh.figures.style import GREEDY, WRONG, add_estimates, add_legend, plt, save_figure
from llava_hh.files.files import read_json

PANELS = {"CHAIRi": ("CHAIR_i, %", 100), "recall": ("recall, %", 100), "mentions": ("mentions a caption", 1)}
SPANS = {"after_image": "attention after the image", "image": "attention on the image"}


def draw_attention_reweight(source: Path, out: Path) -> None:
    """Draw attention_reweight_<span>.json as `out`.png and `out`.pdf; hollow marks are the paper's CHAIR_i."""
    result = read_json(source)
    alphas, points, random_heads, span = (result[name] for name in ("alphas", "hal_heads", "random_heads", "span"))
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
    for axis, (metric, (label, factor)) in zip(axes, PANELS.items(), strict=True):
        if random_heads:
            drawn = factor * np.array([[draw[metric] for draw in point["draws"]] for point in random_heads])
            axis.fill_between(alphas, drawn.min(1), drawn.max(1), color=GREEDY, alpha=0.2, lw=0)
            axis.plot(alphas, drawn.mean(1), color=GREEDY, label=f"random heads, {drawn.shape[1]} draws")
        means = factor * np.array([point[metric] for point in points])
        intervals = factor * np.array([point["interval"][metric] for point in points])
        style = {"color": WRONG, "marker": "o", "ms": 4, "capsize": 2, "label": "hallucination heads"}
        add_estimates(axis, alphas, means, intervals, **style)
        if metric == "CHAIRi" and "paper" in result:
            paper = result["paper"]
            for group, name, colour in (("hal_heads", "hallucination", WRONG), ("random_heads", "random", GREEDY)):
                values = factor * np.array(paper[group])
                axis.plot(paper["alpha"], values, "D", mfc="none", mec=colour, label=f"paper, {name} heads")
        axis.set(xlabel=f"factor on {SPANS[span]}", ylabel=label)
        axis.set_ylim(bottom=0)
        if span == "after_image":
            axis.invert_xaxis()  # from untouched to removed, as in the paper
    add_legend(axes[0])
    settings = result["settings"]
    title = f"{SPANS[span].capitalize()} of the top {settings['top_k']} heads, scaled; {result['n']} images"
    save_figure(figure, out, f"{title} of {settings['split']}, 95% bootstrap intervals; band: range of the draws")
