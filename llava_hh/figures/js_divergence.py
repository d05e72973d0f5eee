"""Jensen-Shannon divergence of attention in instruction tuning, by step (paper, figure 5)."""

from pathlib import Path

import numpy as np

from llava_hh.figures.style import GREEDY, GROUP_COLOURS, GROUP_LABELS, WRONG, plt, save_figure, whole_ticks
from llava_hh.files.files import read_json

COLOURS = {"hal_heads": WRONG, "non_hal_heads": GREEDY, "same_layers": GROUP_COLOURS["same_layers"]}


def draw_js_divergence(divergences: Path, out: Path) -> None:
    """Draw js_divergence.json as `out`.png and `out`.pdf; hollow marks are the paper's values."""
    result = read_json(divergences)
    entries = result["steps"]
    steps = [entry["step"] for entry in entries]
    figure, axis = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
    low, median, high = np.array([[entry["percentiles"][rank] for rank in ("10", "50", "90")] for entry in entries]).T
    # a band of one step has no width
    axis.fill_between(steps, low, high, color="0.9", lw=8 if len(steps) == 1 else 0, label="all heads, 10% to 90%")
    axis.plot(steps, median, "--", color="0.6", lw=1, marker="_", label="all heads, median")
    for group, colour in COLOURS.items():
        if group not in result:  # results of earlier versions have no control
            continue
        n, label = len(result[group]), GROUP_LABELS[group]
        label = f"{n} {label if n > 1 else label.replace('heads', 'head')}"
        axis.plot(steps, [entry[group]["mean"] for entry in entries], "o-", color=colour, ms=4, lw=1.4, label=label)
        ends = np.transpose([entry[group]["interval"]["mean"] for entry in entries])  # end step
        axis.vlines(steps, *ends, color=colour, lw=1.4)
        if group in (paper := result.get("paper", {})):
            axis.plot(paper["step"], paper[group], "o", mfc="none", mec=colour, ms=6, label="the paper's")
    axis.set_ylim(bottom=0)
    whole_ticks(axis, "x")
    about = "Jensen-Shannon divergence to\nthe model before tuning, nats"
    axis.set(xlabel="step of instruction tuning", ylabel=about)
    captions = f"{result['n']} caption{'s' * (result['n'] > 1)}"
    axis.set_title(f"Change of attention in tuning, {captions}\nmeans with 95% bootstrap intervals", fontsize=9)
    figure.legend(loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    save_figure(figure, out)
