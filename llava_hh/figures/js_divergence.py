"""Jensen-Shannon divergence of attention in instruction tuning, by step (paper, figure 5)."""

from pathlib import Path

import numpy as np

from llava_hh.figures.style import COLUMN, GROUP_COLOURS, GROUP_LABELS, add_legend, plt, save_figure, whole_ticks
from llava_hh.files.files import read_json

GROUPS = ("hal_heads", "non_hal_heads", "same_layers")


def draw_js_divergence(divergences: Path, out: Path) -> None:
    """Draw js_divergence.json as `out`.png and `out`.pdf; hollow marks are the paper's values."""
    result = read_json(divergences)
    entries = result["steps"]
    steps = [entry["step"] for entry in entries]
    figure, axis = plt.subplots(figsize=(COLUMN, 3.4), layout="constrained")
    low, median, high = np.array([[entry["percentiles"][rank] for rank in ("10", "50", "90")] for entry in entries]).T
    # a band of one step has no width
    axis.fill_between(steps, low, high, color="0.9", lw=8 if len(steps) == 1 else 0, label="all heads, 10% to 90%")
    axis.plot(steps, median, "--", color="0.6", lw=1, marker="_", label="all heads, median")
    for group in GROUPS:
        if group not in result:  # results of earlier versions have no control
            continue
        n, label, colour = len(result[group]), GROUP_LABELS[group], GROUP_COLOURS[group]
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
    add_legend(axis, outside=True, loc="outside lower center")
    save_figure(figure, out, f"Change of attention in tuning, {captions}\nmeans with 95% bootstrap intervals")
