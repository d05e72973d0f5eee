"""Jensen-Shannon divergence of attention in instruction tuning, by step (paper, figure 5)."""

from pathlib import Path

import numpy as np

from llava_hh.figures.style import GREEDY, WRONG, plt, save_figure
from llava_hh.files.files import read_json

GROUPS = {"hal_heads": ("hallucination heads", WRONG), "non_hal_heads": ("non-hallucination heads", GREEDY)}


def draw_js_divergence(divergences: Path, out: Path) -> None:
    """Draw js_divergence.json as `out`.png and `out`.pdf; where it holds the paper's values, as hollow marks."""
    result = read_json(divergences)
    entries = result["steps"]
    steps = [entry["step"] for entry in entries]
    figure, axis = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
    low, median, high = np.array([[entry["percentiles"][rank] for rank in ("10", "50", "90")] for entry in entries]).T
    # a band of one step has no width
    axis.fill_between(steps, low, high, color="0.9", lw=8 if len(steps) == 1 else 0, label="all heads, 10% to 90%")
    axis.plot(steps, median, "--", color="0.6", lw=1, marker="_", label="all heads, median")
    for key, (label, colour) in GROUPS.items():
        means = np.array([entry[key]["mean"] for entry in entries])
        ends = np.array([entry[key]["interval"]["mean"] for entry in entries]).T  # end step
        label = f"{len(result[key])} {label if len(result[key]) > 1 else label.removesuffix('s')}"
        axis.plot(steps, means, "o-", color=colour, ms=4, lw=1.4, label=label)
        axis.vlines(steps, *ends, color=colour, lw=1.4)
        if "paper" in result:
            paper = result["paper"]
            axis.plot(paper["step"], paper[key], "o", mfc="none", mec=colour, ms=6, label="the paper's")
    axis.set_ylim(bottom=0)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel("step of instruction tuning")
    axis.set_ylabel("Jensen-Shannon divergence to\nthe model before tuning, nats")
    captions = f"{result['n']} caption{'s' * (result['n'] > 1)}"
    axis.set_title(f"Change of attention in tuning, {captions}\nmeans with 95% bootstrap intervals", fontsize=9)
    figure.legend(loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    save_figure(figure, out)
