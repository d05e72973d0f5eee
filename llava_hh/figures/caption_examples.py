"""Pictures with their captions before and after an intervention: where it helps, and where it harms."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from llava_hh.figures.style import GREEDY, ONE, PAGE, TEXT, WRONG, plt, role_colour, save_figure
from llava_hh.files.files import read_json
from llava_hh.files.images import image_path, load_image

LINE_CHARACTERS = 77
LINE_HEIGHT, TITLE_HEIGHT = 0.145, 0.4  # inches
LEAST_LINES = 10  # of a row, so that its image is not too small
MOST_LINES = 40  # of a caption
HELPED, HARMED = 3, 1  # images that are drawn
KINDS = {"wrong": WRONG, "again": ONE}  # of words, and their colours
LEGEND = (("hallucinated", WRONG), (" ", "black"), ("named again", ONE))


def draw_caption_examples(before: Path, after: Path, image_folder: Path, out: Path, label: str = "AD-HH") -> None:
    """Draw the first images where `after` hallucinates fewer objects than `before`, and the first where it does more.

    Without any such image, the first whose caption hallucinates and is another one are drawn, then the first whose
    caption hallucinates, then the first of all.

    Args:
        before, after: captions_eval_results.json of two methods over the same images; label: of the second.
    """
    entries = read_json(before)["sentences"]
    others = {entry["image_id"]: entry for entry in read_json(after)["sentences"]}
    if not entries:
        raise ValueError(f"{before}: no captions to draw")
    shown, title = choose(entries, others, label)
    texts = [_named(entry, others[entry["image_id"]], label) for entry in shown]
    n_lines = [max(LEAST_LINES, sum(_height(entry) + 2 for entry in both.values())) for both in texts]
    height = LINE_HEIGHT * sum(n_lines) + TITLE_HEIGHT
    # no constrained layout: it gives up where the font's boxes for unknown letters are wider than the figure
    spaces = {"wspace": 0.03, "hspace": 0, "left": 0.01, "right": 1, "bottom": 0, "top": 1 - TITLE_HEIGHT / height}
    grid = {"width_ratios": (1, 4.4), "height_ratios": n_lines, **spaces}
    figure, axes = plt.subplots(len(shown), 2, figsize=(PAGE, height), squeeze=False, gridspec_kw=grid)
    for (left, right), entry, both, lines in zip(axes, shown, texts, n_lines, strict=True):
        left.set_anchor("N")
        left.imshow(load_image(image_path(image_folder, entry["image"])))
        for axis in (left, right):
            axis.axis("off")
        right.set(xlim=(0, LINE_CHARACTERS), ylim=(lines, 0))
        line = 0
        for name, captioned in both.items():
            colour = role_colour(name) or GREEDY
            right.text(0, line, name, va="top", fontsize=TEXT, fontweight="bold", color=colour)
            line = _write(right, line + 1, captioned) + 1
    _add_legend(axes[0, 1])
    figure.suptitle(title, y=1 - 0.08 / height)
    save_figure(figure, out)


def choose(entries: Sequence[dict], others: Mapping[Any, dict], label: str) -> tuple[list[dict], str]:
    """The entries that are drawn, in the order of the captions, and the title that says which they are.

    Args:
        entries: scored captions; others: those of the other method by image id; label: its name.
    """
    changes = [n_wrong(others[entry["image_id"]]) - n_wrong(entry) for entry in entries]
    helped = [entry for entry, change in zip(entries, changes, strict=True) if change < 0]
    harmed = [entry for entry, change in zip(entries, changes, strict=True) if change > 0]
    if helped or harmed:
        first, last = helped[:HELPED], harmed[:HARMED]
        counts = [f"fewer in {len(helped)} (first {len(first)})", f"more in {len(harmed)} (first {len(last)})"]
        return [*first, *last], f"Hallucinated objects under {label}, {len(entries)} images: {', '.join(counts)}"
    wrong = [entry for entry in entries if n_wrong(entry)]
    changed = [entry for entry in wrong if others[entry["image_id"]]["caption"] != entry["caption"]]
    shown = list(changed or wrong or entries)[: HELPED + HARMED]
    count = "as many in all" if wrong else "none"
    return shown, f"Hallucinated objects under {label}, {len(entries)} images: {count} (first {len(shown)})"


def _named(entry: dict, other: dict, label: str) -> dict[str, dict]:
    """Both captions of an image by their headings."""
    change = f"hallucinated objects: {n_wrong(entry)} to {n_wrong(other)}"
    return {f"greedy, image {entry['image_id']}": entry, f"{label}, {change}": other}


def n_wrong(entry: Mapping[str, Any]) -> int:
    """How many different objects a caption hallucinates."""
    return len({mention["node"] for mention in entry["mentions"] if mention["hallucinated"]})


def wrap(caption: str) -> list[list[int]]:
    """Lines of at most LINE_CHARACTERS characters: the index in the caption of each character of each line.

    A line ends at a line break of the caption too. White space of any length between two words is one character.
    """
    lines: list[list[int]] = []
    end = 0
    for word in re.finditer(r"\S+", caption):
        indices = list(range(*word.span()))
        fits = bool(lines) and len(lines[-1]) + 1 + len(indices) <= LINE_CHARACTERS
        if fits and "\n" not in caption[end : word.start()]:
            lines[-1] += [word.start() - 1, *indices]
        else:
            lines += [indices[first : first + LINE_CHARACTERS] for first in range(0, len(indices), LINE_CHARACTERS)]
        end = word.end()
    return lines


def kinds_of(entry: Mapping[str, Any]) -> list[str]:
    """The kind of each character of a caption: "wrong" or "again" (see KINDS), or "" for all else.

    A hallucinated object that is named again is wrong each time.
    """
    kinds = [""] * len(entry["caption"])
    named: set[str] = set()
    for mention in entry["mentions"]:
        kind = "wrong" if mention["hallucinated"] else "again" if mention["node"] in named else ""
        kinds[mention["start"] : mention["end"]] = [kind] * (mention["end"] - mention["start"])
        named.add(mention["node"])
    return kinds


def _height(entry: dict) -> int:
    """The height of a caption in lines; a long one is cut."""
    return min(len(wrap(entry["caption"])), MOST_LINES + 1)


def _write(axis: Axes, top: int, entry: dict) -> int:
    """Write a caption in a fixed-width font, words of each kind in its colour; returns the line below it."""
    # the PDF writer fails at U+FEFF, and control characters have no picture
    letters = [letter if letter.isprintable() else "\ufffd" for letter in re.sub(r"\s", " ", entry["caption"])]
    kinds, lines = kinds_of(entry), wrap(entry["caption"])
    more = len(lines) - MOST_LINES
    for number, line in enumerate(lines[:MOST_LINES], start=top):
        for wanted, colour in (("", "black"), *KINDS.items()):
            text = "".join(letters[index] if kinds[index] == wanted else " " for index in line)
            weight = "bold" if wanted else "normal"
            style = {"family": "monospace", "fontsize": TEXT, "color": colour, "fontweight": weight}
            axis.text(0, number, text, va="top", **style)
    if more > 0:
        axis.text(0, top + MOST_LINES, f"... {more:,} more lines", va="top", fontsize=TEXT, color=GREEDY)
    return top + _height(entry)


def _add_legend(axis: Axes) -> None:
    """What the colours of words mean, at the right of the first line, in the letters of the captions."""
    whole = "".join(text for text, _ in LEGEND)
    start = LINE_CHARACTERS - len(whole)
    for text, colour in LEGEND:
        shown = {"family": "monospace", "fontsize": TEXT, "color": colour, "fontweight": "bold"}
        axis.text(start, 0, text, va="top", **shown)
        start += len(text)
