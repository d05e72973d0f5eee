"""Figure 6: metrics over the factor on the attention of hallucination heads, with random heads as a band."""

from pathlib import Path

import numpy as np

from llava_hh.figures.style import GREEDY, GROUP_COLOURS, plt, save_figure
from llava_hh.files.files import read_json

PANELS = {"CHAIRi": ("CHAIR_i, %", 100), "recall": ("recall, %", 100), "mentions": ("mentions a caption", 1)}
SPANS = {"after_image": "attention after the image", "image": "attention on the image"}


def draw_attention_reweight(source: Path, out: Path) -> None:
    """Draw attention_reweight_<span>.json as `out`.png and `out`.pdf; the paper's CHAIR_i, if there, is hollow."""
    result = read_json(source)
    alphas, n_draws = result["alphas"], len(result["random_heads"][0]["draws"]) if result["random_heads"] else 0
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
    for axis, (metric, (label, factor)) in zip(axes, PANELS.items(), strict=True):
        points = result["hal_heads"]
        means = factor * np.array([point[metric] for point in points])
        low, high = factor * np.array([point["interval"][metric] for point in points]).T
        if n_draws:
            drawn = factor * np.array([[draw[metric] for draw in point["draws"]] for point in result["random_heads"]])
            axis.fill_between(alphas, drawn.min(1), drawn.max(1), color=GREEDY, alpha=0.2, lw=0)
            axis.plot(alphas, drawn.mean(1), color=GREEDY, label=f"random heads, {n_draws} draws")
        axis.errorbar(
            alphas,
            means,
            np.maximum((means - low, high - means), 0),  # an estimate may lie outside its percentile interval
            color=GROUP_COLOURS["hal_heads"],
            marker="o",
            ms=4,
            capsize=2,
            label="hallucination heads",
        )
        if metric == "CHAIRi" and "paper" in result:
            paper = result["paper"]
            for group, colour in (("hal_heads", GROUP_COLOURS["hal_heads"]), ("random_heads", GREEDY)):
                name = "paper, hallucination heads" if group == "hal_heads" else "paper, random heads"
                axis.plot(paper["alpha"], factor * np.array(paper[group]), "D", mfc="none", mec=colour, label=name)
        axis.set_xlabel(f"factor on {SPANS[result['span']]}")
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        if result["span"] == "after_image":
            axis.invert_xaxis()  # from untouched to removed, as in the paper
    axes[0].legend(fontsize=7, frameon=False)
    figure.suptitle(
        f"{SPANS[result['span']].capitalize()} of the top {result['settings']['top_k']} heads, scaled; "
        f"{result['n']} images of {result['settings']['split']}, 95% bootstrap intervals; band: range of the draws",
        fontsize=9,
    )
    save_figure(figure, out)
