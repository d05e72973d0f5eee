"""CHAIR_i over recall for every tried setting of AD-HH."""

from pathlib import Path

from llava_hh.figures.style import GREEDY, WRONG, add_legend, plt, save_figure
from llava_hh.files.files import read_json


def draw_trade_off(sweep: Path, out: Path) -> None:
    """Draw choice.json of evaluate as `out`.png and `out`.pdf."""
    content = read_json(sweep)
    figure, axis = plt.subplots(figsize=(5.2, 3.8))
    points, colours = content["points"], plt.get_cmap("viridis")
    tops = sorted({point["top_k"] for point in points})
    for rank, top_k in enumerate(tops):
        of_size = sorted((p for p in points if p["top_k"] == top_k), key=lambda point: point["threshold"])
        recall, chair = ([100 * point[metric] for point in of_size] for metric in ("recall", "CHAIRi"))
        axis.plot(recall, chair, "o-", color=colours(rank / max(1, len(tops) - 1)), ms=4, lw=1, label=f"top {top_k}")
        for x, y, point in zip(recall, chair, of_size, strict=True):
            axis.annotate(f"{point['threshold']:g}", (x, y), xytext=(3, 3), textcoords="offset points", fontsize=6)
    greedy, chosen = content["greedy"], content["chosen"]
    axis.plot(100 * greedy["recall"], 100 * greedy["CHAIRi"], "*", color=GREEDY, ms=12, label="greedy")
    if chosen:
        style = {"mfc": "none", "mec": WRONG, "ms": 12, "mew": 1.5, "label": "chosen"}
        axis.plot(100 * chosen["recall"], 100 * chosen["CHAIRi"], "o", **style)
    axis.set(xlabel="recall of objects, %", ylabel="CHAIR_i, % (lower is better)")
    axis.set_title(f"AD-HH by number of heads and threshold, {greedy['n']} train2014 images", fontsize=9)
    add_legend(axis)
    save_figure(figure, out)
