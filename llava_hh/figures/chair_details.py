"""CHAIR in detail, drawn from chair_details.json: by category, by what is in the image, by position in the caption."""

from collections import Counter
from collections.abc import Callable
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from llava_hh.figures.style import DIVERGING, RUN_COLOURS, add_estimates, plt, save_figure, whole_ticks
from llava_hh.files.files import read_json

N_CATEGORIES = 20
N_ROWS, N_COLUMNS = 12, 18  # hallucinated objects, and objects beside them
LEAST_MENTIONS = 10  # of a part of the caption that is drawn
RATES = {"rate": "hallucinated, % of captions that name it", "missed_rate": "missed, % of images that have it"}
POSITIONS = {
    "part": "part of the caption, of equal length",
    "mention": "number of the mentioned object",
    "sentence": "number of the sentence",
}


def draw_categories(source: Path, out: Path) -> None:
    """The categories that the first run hallucinates in most captions, with 95% Wilson intervals, all runs."""
    n, runs = _read(source)
    first = runs[0]["categories"]
    order = sorted(first, key=lambda name: (-first[name]["hallucinated"], -first[name]["missed"], name))[:N_CATEGORIES]
    rows = np.arange(len(order))
    figure, axes = plt.subplots(1, 2, figsize=(9, 1.6 + 0.27 * len(order)), sharey=True, layout="constrained")
    for axis, (rate, label) in zip(axes, RATES.items(), strict=True):
        for shift, run, style in _beside(runs):
            shares = [run["categories"][name][rate] for name in order]
            intervals = [run["categories"][name]["interval"][rate] for name in order]
            _add_shares(axis, rows + shift, shares, intervals, upright=False, fmt="o", **style)
        axis.set_xlabel(label)
        axis.set_xlim(left=0)
    counts = [f"{name} ({first[name]['hallucinated']}/{first[name]['named']})" for name in order]
    axes[0].set_yticks(rows, counts, fontsize=7)
    axes[0].set_ylim(len(order) - 0.5, -0.5)
    _add_names(axes[0], runs)
    title = (
        f"Objects by hallucination, {n} images, 95% Wilson intervals over captions; "
        f"in brackets: {runs[0]['label']}, captions that hallucinate it / name it"
    )
    save_figure(figure, out, title, fontsize=8)


def draw_co_occurrence(source: Path, out: Path) -> None:
    """Rows: hallucinated objects; columns: objects really there; colour: log2 of the lift; number: images."""
    n, runs = _read(source)
    figure, axes = plt.subplots(1, len(runs), figsize=(1.2 + 5.2 * len(runs), 4.6), squeeze=False, layout="constrained")
    rows, columns = _chosen_pairs(runs)
    for axis, run in zip(axes[0], runs, strict=True):
        pairs = {(pair["hallucinated"], pair["there"]): pair for pair in run["co_occurrence"]}
        sizes = {pair["hallucinated"]: pair["n_hallucinated"] for pair in run["co_occurrence"]}
        # a pair that never came together has no logarithm
        grid = np.array([[np.log2(pairs[h, o]["lift"]) if (h, o) in pairs else np.nan for o in columns] for h in rows])
        image = axis.imshow(grid, cmap=DIVERGING, vmin=-3, vmax=3, aspect="auto")
        for (y, hallucinated), (x, there) in product(enumerate(rows), enumerate(columns)):
            if pair := pairs.get((hallucinated, there)):
                colour = "white" if abs(grid[y, x]) > 2 else "black"
                text = f"{pair['n']}{'*' * (pair['p_holm'] < 0.05)}"
                axis.text(x, y, text, ha="center", va="center", fontsize=6, color=colour)
        axis.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
        axis.set_yticks(range(len(rows)), [f"{name} ({sizes.get(name, 0)})" for name in rows], fontsize=7)
        axis.set_xlabel("object in the image")
        axis.set_title(run["label"], fontsize=9)
    axes[0, 0].set_ylabel("hallucinated object (images)")
    figure.colorbar(image, ax=axes[0].tolist(), aspect=30).set_label("log2 lift over images without the object")
    title = f"What is hallucinated beside what, {n} images; numbers: images, *: p < 0.05, Fisher, Holm"
    save_figure(figure, out, f"{title}; white: never together", fontsize=8)


def draw_positions(source: Path, out: Path) -> None:
    """Share of mentioned objects that are hallucinated, by position in the caption, all runs."""
    n, runs = _read(source)
    figure, axes = plt.subplots(1, len(POSITIONS), figsize=(10, 3.2), sharey=True, layout="constrained")
    for axis, (kind, label) in zip(axes, POSITIONS.items(), strict=True):
        for shift, run, style in _beside(runs):
            parts = run["positions"][kind]["places"]
            shares = [part["share"] if part["mentions"] >= LEAST_MENTIONS else None for part in parts]
            intervals = [part["interval"]["share"] for part in parts]
            _add_shares(axis, np.arange(1, len(parts) + 1) + shift, shares, intervals, fmt="o-", **style)
        whole_ticks(axis, "x")
        axis.set_xlabel(label)
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel("mentions that are hallucinated, %")
    _add_names(axes[0], runs)
    title = f"Hallucination along the caption, {n} images, 95% bootstrap intervals"
    save_figure(figure, out, f"{title}; places with at least {LEAST_MENTIONS} mentions")


def _read(source: Path) -> tuple[int, list[dict]]:
    """The number of images, and the runs."""
    details = read_json(source)
    return details["n"], list(details["runs"].values())


def _add_shares(axis: Axes, positions: np.ndarray, shares: list, intervals: list, **style: Any) -> None:
    """Fractions with their intervals as percent; None is not drawn."""
    ends = 100 * np.array([interval or (None, None) for interval in intervals], dtype=float)
    add_estimates(axis, positions, 100 * np.array(shares, dtype=float), ends, ms=3.5, lw=1, capsize=1.5, **style)


def _beside(runs: list[dict]) -> list[tuple[float, dict, dict]]:
    """Each run with its shift, so that intervals don't cover each other, and the style of its points."""
    shifts = (np.arange(len(runs)) - (len(runs) - 1) / 2) * min(0.2, 0.7 / len(runs))
    # a run alone has the first colour, that of greedy decoding
    styles = [{"color": colour, "label": run["label"]} for colour, run in zip(cycle(RUN_COLOURS), runs, strict=False)]
    return list(zip(shifts, runs, styles, strict=True))


def _add_names(axis: Axes, runs: list[dict]) -> None:
    if len(runs) > 1:
        axis.legend(fontsize=7, frameon=False)


def _chosen_pairs(runs: list[dict]) -> tuple[list[str], list[str]]:
    """The objects that all runs together hallucinate in most images, and those least likely beside them by chance."""
    sizes: Counter[str] = Counter()
    for run in runs:
        sizes.update({pair["hallucinated"]: pair["n_hallucinated"] for pair in run["co_occurrence"]})
    rows = sorted(sizes, key=lambda name: (-sizes[name], name))[:N_ROWS]
    pairs = [pair for run in runs for pair in run["co_occurrence"] if pair["hallucinated"] in rows]
    columns = [pair["there"] for pair in sorted(pairs, key=lambda pair: pair["p"])]
    return rows or ["nothing"], list(dict.fromkeys(columns))[:N_COLUMNS] or ["nothing"]


PICTURES: dict[str, Callable[[Path, Path], None]] = {
    "chair_categories": draw_categories,
    "chair_cooccurrence": draw_co_occurrence,
    "chair_positions": draw_positions,
}
