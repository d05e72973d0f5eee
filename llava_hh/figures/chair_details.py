"""CHAIR in detail, drawn from chair_details.json: by category, by what is in the image, by position in the caption."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from llava_hh.figures.style import OTHER, PAGE, add_estimates, add_legend, colours_of, plt, save_figure, whole_ticks
from llava_hh.files.files import read_json

N_CATEGORIES = 20
N_PAIRS = 12  # of a hallucinated object and one in the image
LEAST_P = 0.05  # of pairs that may be chance
LEAST_MENTIONS = 10  # of a part of the caption that is drawn
RATES = {"rate": "hallucinated, % of captions that name it", "missed_rate": "missed, % of images that have it"}
POSITIONS = {
    "part": "fifth of the caption",
    "mention": "number of the mentioned object",
    "sentence": "number of the sentence",
}


def draw_categories(source: Path, out: Path) -> None:
    """The categories that the first run hallucinates in most captions, with 95% Wilson intervals, all runs."""
    n, runs = _read(source)
    first = runs[0]["categories"]
    order = sorted(first, key=lambda name: (-first[name]["hallucinated"], -first[name]["missed"], name))[:N_CATEGORIES]
    rows = np.arange(len(order))
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 1.2 + 0.19 * len(order)), sharey=True, layout="constrained")
    for axis, (rate, label) in zip(axes, RATES.items(), strict=True):
        for shift, run, style in _beside(runs):
            shares = [run["categories"][name][rate] for name in order]
            intervals = [run["categories"][name]["interval"][rate] for name in order]
            _add_shares(axis, rows + shift, shares, intervals, upright=False, fmt="o", **style)
        axis.set_xlabel(label)
        axis.set_xlim(left=0)
    counts = [f"{name} ({first[name]['hallucinated']}/{first[name]['named']})" for name in order]
    axes[0].set_yticks(rows, counts)
    axes[0].set_ylim(len(order) - 0.5, -0.5)
    add_legend(axes[0], outside=True, loc="outside lower center", ncols=4)
    counted = f"in brackets, for {runs[0]['label']}: captions that hallucinate it / name it"
    save_figure(figure, out, f"Objects by hallucination, {n} images, 95% Wilson intervals over captions\n{counted}")


def draw_co_occurrence(source: Path, out: Path) -> None:
    """The pairs least likely by chance: how often the one object is in images where the other is hallucinated.

    Hollow: in the images that are compared with these.
    """
    n, runs = _read(source)
    chosen = _chosen_pairs(runs)
    rows = np.arange(len(chosen))
    figure, axis = plt.subplots(figsize=(PAGE, 1.3 + 0.2 * max(1, len(chosen))), layout="constrained")
    names = [f"{hallucinated} beside {there}" for hallucinated, there in chosen]
    for shift, run, style in _beside(runs):
        pairs = {(pair["hallucinated"], pair["there"]): pair for pair in run["co_occurrence"]}
        label = style.pop("label")
        for row, pair in [(row, pairs[pair]) for row, pair in zip(rows, chosen, strict=True) if pair in pairs]:
            ends = 100 * np.array([pair["base"], pair["share"]])
            axis.plot(ends, [row + shift] * 2, lw=1, **style)
            is_likely = pair["p_holm"] >= LEAST_P
            drawn = {"ls": "", "clip_on": False, "zorder": 3, **style}
            axis.plot(ends[1:], [row + shift], marker="|" if is_likely else "o", ms=6 if is_likely else 4, **drawn)
            axis.plot(ends[:1], [row + shift], marker="o", ms=3.5, mfc="white", **drawn)
            if run is runs[0]:
                names[row] += f" ({pair['n']}/{pair['n_hallucinated']})"
        axis.plot([], [], "o-", ms=4, label=f"{label}, where it is hallucinated", **style)
    axis.plot([], [], "o", ms=3.5, mfc="white", color=OTHER, label="where it is not")
    axis.set_yticks(rows, names)
    axis.set(xlim=(0, 100), ylim=(max(1, len(chosen)) - 0.5, -0.5), xlabel="images that show the second object, %")
    add_legend(axis, outside=True, loc="outside lower center", ncols=3)
    counted = f"in brackets, for {runs[0]['label']}: images that show the second / hallucinate the first"
    title = f"Hallucinated objects beside objects in the image, {n} images; bars: p >= {LEAST_P}, Fisher, Holm"
    save_figure(figure, out, f"{title}\n{counted}")


def draw_positions(source: Path, out: Path) -> None:
    """Share of mentioned objects that are hallucinated, by position in the caption, all runs."""
    n, runs = _read(source)
    figure, axes = plt.subplots(1, len(POSITIONS), figsize=(PAGE, 2.5), sharey=True, layout="constrained")
    for axis, (kind, label) in zip(axes, POSITIONS.items(), strict=True):
        for shift, run, style in _beside(runs):
            parts = run["positions"][kind]["places"]
            shares = [part["share"] if part["mentions"] >= LEAST_MENTIONS else None for part in parts]
            intervals = [part["interval"]["share"] for part in parts]
            _add_shares(axis, np.arange(1, len(parts) + 1) + shift, shares, intervals, fmt="o-", **style)
        whole_ticks(axis, "x")
        axis.set_xlabel(label)
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel("hallucinated mentions, %")
    add_legend(axes[0], outside=True, loc="outside lower center", ncols=4)
    title = f"Hallucination along the caption, {n} images, 95% bootstrap intervals"
    save_figure(figure, out, f"{title}; positions of at least {LEAST_MENTIONS} mentions")


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
    labels = [run["label"] for run in runs]
    styles = [{"color": colour, "label": label} for colour, label in zip(colours_of(labels), labels, strict=True)]
    return list(zip(shifts, runs, styles, strict=True))


def _chosen_pairs(runs: list[dict]) -> list[tuple[str, str]]:
    """Pairs of a hallucinated object and one beside it, those least likely by chance in any run first."""
    pairs = sorted((pair for run in runs for pair in run["co_occurrence"]), key=lambda pair: pair["p"])
    return list(dict.fromkeys((pair["hallucinated"], pair["there"]) for pair in pairs))[:N_PAIRS]


PICTURES: dict[str, Callable[[Path, Path], None]] = {
    "chair_categories": draw_categories,
    "chair_cooccurrence": draw_co_occurrence,
    "chair_positions": draw_positions,
}
