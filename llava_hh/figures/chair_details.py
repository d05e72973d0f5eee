"""CHAIR in detail, drawn from chair_details.json: by category, by what is in the image, by place in the caption."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llava_hh.figures.style import DIVERGING, GREEDY, RUN_COLOURS, plt, save_figure
from llava_hh.files.files import read_json

N_CATEGORIES = 20
N_ROWS, N_COLUMNS = 12, 18  # hallucinated objects, and objects beside them
LEAST_MENTIONS = 10  # of a place in the caption that is drawn
RATES = {"rate": "hallucinated, % of captions that name it", "missed_rate": "missed, % of images that have it"}
PLACES = {
    "part": "part of the caption, of equal length",
    "mention": "number of the mentioned object",
    "sentence": "number of the sentence",
}


def draw_categories(source: Path, out: Path) -> None:
    """The categories that the first run hallucinates in most captions, with 95% Wilson intervals, all runs."""
    details = read_json(source)
    runs = list(details["runs"].values())
    first = runs[0]["categories"]
    order = sorted(first, key=lambda name: (-first[name]["hallucinated"], -first[name]["missed"], name))[:N_CATEGORIES]
    rows = np.arange(len(order))
    figure, axes = plt.subplots(1, 2, figsize=(9, 1.6 + 0.27 * len(order)), sharey=True, layout="constrained")
    for axis, (rate, label) in zip(axes, RATES.items(), strict=True):
        for shift, run, colour in _beside(runs):
            own = [run["categories"][name] for name in order]
            _points(
                axis, rows + shift, [(e[rate], e["interval"][rate]) for e in own], colour, run["label"], upright=False
            )
        axis.set_xlabel(label)
        axis.set_xlim(left=0)
    counts = [f"{name} ({first[name]['hallucinated']}/{first[name]['named']})" for name in order]
    axes[0].set_yticks(rows, counts, fontsize=7)
    axes[0].set_ylim(len(order) - 0.5, -0.5)
    _legend(axes[0], runs)
    figure.suptitle(
        f"Objects by hallucination, {details['n']} images, 95% Wilson intervals over captions; "
        f"in brackets: {runs[0]['label']}, captions that hallucinate it / name it",
        fontsize=8,
    )
    save_figure(figure, out)


def draw_co_occurrence(source: Path, out: Path) -> None:
    """Rows: hallucinated objects; columns: objects really there; colour: log2 of the lift; number: images."""
    details = read_json(source)
    runs = list(details["runs"].values())
    figure, axes = plt.subplots(1, len(runs), figsize=(1.2 + 5.2 * len(runs), 4.6), squeeze=False, layout="constrained")
    rows, columns = _chosen_pairs(runs)
    for axis, run in zip(axes[0], runs, strict=True):
        pairs = {(pair["hallucinated"], pair["there"]): pair for pair in run["co_occurrence"]}
        sizes = {h: pair["n_hallucinated"] for (h, _), pair in pairs.items()}
        # a pair that never came together has no logarithm
        grid = np.array([[np.log2(pairs[h, o]["lift"]) if (h, o) in pairs else np.nan for o in columns] for h in rows])
        image = axis.imshow(grid, cmap=DIVERGING, vmin=-3, vmax=3, aspect="auto")
        for y, h in enumerate(rows):
            for x, o in enumerate(columns):
                if pair := pairs.get((h, o)):
                    text = f"{pair['n']}{'*' if pair['p_holm'] < 0.05 else ''}"
                    dark = abs(grid[y, x]) > 2
                    axis.text(x, y, text, ha="center", va="center", fontsize=6, color="white" if dark else "black")
        axis.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
        axis.set_yticks(range(len(rows)), [f"{h} ({sizes.get(h, 0)})" for h in rows], fontsize=7)
        axis.set_xlabel("object in the image")
        axis.set_title(run["label"], fontsize=9)
    axes[0, 0].set_ylabel("hallucinated object (images)")
    figure.colorbar(image, ax=axes[0].tolist(), aspect=30).set_label("log2 lift over images without the object")
    figure.suptitle(
        f"What is hallucinated beside what, {details['n']} images; numbers: images, *: p < 0.05, Fisher, Holm; "
        "white: never together",
        fontsize=8,
    )
    save_figure(figure, out)


def draw_positions(source: Path, out: Path) -> None:
    """Share of mentioned objects that are hallucinated, by place in the caption, all runs."""
    details = read_json(source)
    runs = list(details["runs"].values())
    figure, axes = plt.subplots(1, len(PLACES), figsize=(10, 3.2), sharey=True, layout="constrained")
    for axis, (kind, label) in zip(axes, PLACES.items(), strict=True):
        for shift, run, colour in _beside(runs):
            own = run["positions"][kind]["places"]
            drawn = [(e["share"] if e["mentions"] >= LEAST_MENTIONS else None, e["interval"]["share"]) for e in own]
            _points(axis, np.arange(1, len(own) + 1) + shift, drawn, colour, run["label"], upright=True)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlabel(label)
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel("mentions that are hallucinated, %")
    _legend(axes[0], runs)
    figure.suptitle(
        f"Hallucination along the caption, {details['n']} images, 95% bootstrap intervals; "
        f"places with at least {LEAST_MENTIONS} mentions",
        fontsize=9,
    )
    save_figure(figure, out)


def _points(axis: Any, places: np.ndarray, values: list, colour: str, label: str, upright: bool) -> None:
    """Fractions with their intervals as percent; None, not to be drawn, becomes NaN."""
    means = 100 * np.array([value for value, _ in values], dtype=float)
    ends = 100 * np.array([ends or (None, None) for _, ends in values], dtype=float)
    # an estimate may lie outside its percentile interval
    spread = np.maximum((means - ends[:, 0], ends[:, 1] - means), 0)
    style = {"color": colour, "ms": 3.5, "lw": 1, "capsize": 1.5, "label": label}
    if upright:
        axis.errorbar(places, means, yerr=spread, fmt="o-", **style)
    else:
        axis.errorbar(means, places, xerr=spread, fmt="o", **style)


def _beside(runs: list[dict]) -> list[tuple[float, dict, str]]:
    """Each run with its shift off the common place, so that intervals don't cover each other, and its colour."""
    shifts = (np.arange(len(runs)) - (len(runs) - 1) / 2) * min(0.2, 0.7 / len(runs))
    colours = [RUN_COLOURS[place % len(RUN_COLOURS)] if len(runs) > 1 else GREEDY for place in range(len(runs))]
    return list(zip(shifts, runs, colours, strict=True))


def _legend(axis: Any, runs: list[dict]) -> None:
    if len(runs) > 1:
        axis.legend(fontsize=7, frameon=False)


def _chosen_pairs(runs: list[dict]) -> tuple[list[str], list[str]]:
    """What is hallucinated in most images of all runs together, and the objects least likely beside it by chance."""
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
