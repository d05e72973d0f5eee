"""CHAIR_i over recall: a point for each decoding method, with its intervals both ways and its time per token."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from llava_hh.comparing.summary import methods_of
from llava_hh.figures.labels import add_labels
from llava_hh.figures.methods import drawn_images
from llava_hh.figures.style import ADHH, GREEDY, OTHER, PAGE, TEXT, add_estimates, plt, save_figure, whole_ticks
from llava_hh.files.files import read_json

COLOURS = {"greedy": GREEDY, "adhh": ADHH}  # by kind of method
SMALLEST = 4.5  # points: the diameter of a marker at greedy decoding's time per token
LEGEND = (1, 4, 16)  # times greedy decoding's time per token


def draw_methods_over_recall(source: Path, out: Path) -> None:
    """Draw a summary.json of evaluate as `out`.png and `out`.pdf; dashed lines cross at greedy decoding.

    A method that names no object has no CHAIR_i, and one that changes no caption is greedy decoding: both are named
    below and not drawn. Markers of methods on fewer images than greedy decoding are hollow.
    """
    summary = read_json(source)
    methods, greedy = methods_of(summary), summary["methods"]["greedy"]
    fewer = {label: entry for label, entry in methods.items() if "kind" not in entry and label.startswith("greedy, ")}
    same = [label for label, entry in methods.items() if entry.get("same_as_greedy") == entry["n"]]
    silent = [label for label, entry in methods.items() if not entry["mentions"] and label not in same]
    shown = {label: entry for label, entry in methods.items() if label not in {*fewer, *silent, *same}}
    figure, axis = plt.subplots(figsize=(PAGE, 5), layout="constrained")
    axis.axvline(100 * greedy["recall"], color=GREEDY, lw=0.8, ls="--", zorder=0)
    axis.axhline(100 * greedy["CHAIRi"], color=GREEDY, lw=0.8, ls="--", zorder=0)
    for entry in shown.values():
        _draw_method(axis, entry, hollow=entry["n"] < greedy["n"])
    notes = [
        f"hollow: the first {entry['n']} images (greedy: recall {entry['recall']:.1%}, CHAIR_i {entry['CHAIRi']:.1%})"
        for entry in fewer.values()
    ]
    for why, labels in (("no caption changed", same), ("no object named", silent)):
        notes += [f"not drawn, {why}: {', '.join(labels)}"] if labels else []
    axis.set_xlabel("\n".join(["recall of objects, %", *notes]))
    axis.set_ylabel("CHAIR_i, % (lower is better)")
    whole_ticks(axis, "x", "y")
    if any("relative_time" in entry for entry in shown.values()):
        _add_sizes(axis)
    points = 100 * np.array([(entry["recall"], entry["CHAIRi"]) for entry in shown.values()]).reshape(-1, 2)
    radii = [diameter_of(entry) / 2 for entry in shown.values()]
    add_labels(
        axis, points, list(shown), radii, [COLOURS.get(entry.get("kind", ""), "black") for entry in shown.values()]
    )
    save_figure(figure, out, f"CHAIR_i over recall, {drawn_images(summary)}")


def diameter_of(entry: Mapping[str, Any]) -> float:
    """The diameter of a method's marker in points: the fourth root of its time per token, so the area the square root.

    A method without a time has the marker of greedy decoding.
    """
    return SMALLEST * entry.get("relative_time", 1.0) ** 0.25


def _draw_method(axis: Axes, entry: Mapping[str, Any], hollow: bool) -> None:
    colour = COLOURS.get(entry.get("kind", ""), OTHER)
    recall, chair = 100 * entry["recall"], 100 * entry["CHAIRi"]
    ends = {metric: [100 * np.array(entry["interval"][metric])] for metric in ("recall", "CHAIRi")}
    thin = {"fmt": "none", "ecolor": colour, "lw": 0.8, "alpha": 0.35, "zorder": 1}
    add_estimates(axis, [recall], [chair], ends["CHAIRi"], **thin)
    add_estimates(axis, [chair], [recall], ends["recall"], upright=False, **thin)
    axis.plot(recall, chair, "o", color=colour, mfc="white" if hollow else colour, ms=diameter_of(entry), zorder=3)


def _add_sizes(axis: Axes) -> None:
    """A legend of the markers' sizes, above the axes."""
    times = [{"relative_time": float(time)} for time in LEGEND]
    handles = [axis.plot([], [], "o", color=OTHER, ms=diameter_of(entry))[0] for entry in times]
    names = ["time per token: as greedy decoding", *(f"{time} times" for time in LEGEND[1:])]
    axis.figure.legend(handles, names, ncols=3, fontsize=TEXT, frameon=False, loc="outside lower center")
