"""Pictures with their captions before and after an intervention, hallucinated words in red."""

import re
from pathlib import Path

from matplotlib.axes import Axes

from llava_hh.figures.style import GREEDY, WRONG, plt, save_figure
from llava_hh.files.files import read_json
from llava_hh.files.images import image_path, load_image

LINE_CHARACTERS = 88
LINE_HEIGHT, TITLE_HEIGHT = 0.16, 0.4  # inches
LEAST_LINES = 12  # of a row, so that its image is not too small
MOST_LINES = 40  # of a caption


def draw_caption_examples(
    before: Path, after: Path, image_folder: Path, out: Path, label: str = "AD-HH", n_images: int = 3
) -> None:
    """Draw the first `n_images` whose caption in `before` hallucinates and differs from that in `after`.

    Without such images, the first hallucinating captions are drawn; without those, the first captions.

    Args:
        before, after: captions_eval_results.json of two methods over the same images; label: of the second.
    """
    entries = read_json(before)["sentences"]
    others = {entry["image_id"]: entry for entry in read_json(after)["sentences"]}
    wrong = [entry for entry in entries if entry["metrics"]["CHAIRs"]]
    changed = [entry for entry in wrong if others[entry["image_id"]]["caption"] != entry["caption"]]
    which = "images whose greedy caption hallucinates nothing"
    if wrong:
        which = f"images whose hallucinating greedy caption is {'another one' if changed else 'the same'} under {label}"
    shown = (changed or wrong or entries)[:n_images]
    if not shown:
        raise ValueError(f"{before}: no captions to draw")
    texts = [{f"greedy, image {entry['image_id']}": entry, label: others[entry["image_id"]]} for entry in shown]
    n_lines = [max(LEAST_LINES, sum(_height(entry) + 2 for entry in both.values())) for both in texts]
    height = LINE_HEIGHT * sum(n_lines) + TITLE_HEIGHT
    # no constrained layout: it gives up where the font's boxes for unknown letters are wider than the figure
    spaces = {"wspace": 0.03, "hspace": 0, "left": 0, "right": 1, "bottom": 0, "top": 1 - TITLE_HEIGHT / height}
    grid = {"width_ratios": (1, 3), "height_ratios": n_lines, **spaces}
    figure, axes = plt.subplots(len(shown), 2, figsize=(8.2, height), squeeze=False, gridspec_kw=grid)
    for (left, right), entry, both, lines in zip(axes, shown, texts, n_lines, strict=True):
        left.set_anchor("N")
        left.imshow(load_image(image_path(image_folder, entry["image"])))
        for axis in (left, right):
            axis.axis("off")
        right.set(xlim=(0, LINE_CHARACTERS), ylim=(lines, 0))
        line = 0
        for title, captioned in both.items():
            right.text(0, line, title, va="top", fontsize=7.5, fontweight="bold", color=GREEDY)
            line = _write(right, line + 1, captioned) + 1
    figure.suptitle(f"The first {len(shown)} {which}; hallucinated words in red", fontsize=9, y=1 - 0.1 / height)
    save_figure(figure, out)


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


def _height(entry: dict) -> int:
    """The height of a caption in lines; a long one is cut."""
    return min(len(wrap(entry["caption"])), MOST_LINES + 1)


def _write(axis: Axes, top: int, entry: dict) -> int:
    """Write a caption in a fixed-width font, hallucinated words in red; returns the line below it."""
    spans = [(mention["start"], mention["end"]) for mention in entry["mentions"] if mention["hallucinated"]]
    # the PDF writer fails at U+FEFF, and control characters have no picture
    letters = [letter if letter.isprintable() else "\ufffd" for letter in re.sub(r"\s", " ", entry["caption"])]
    is_wrong = [any(start <= index < end for start, end in spans) for index in range(len(letters))]
    lines = wrap(entry["caption"])
    more = len(lines) - MOST_LINES
    for number, line in enumerate(lines[:MOST_LINES], start=top):
        for colour, weight, wanted in (("black", "normal", False), (WRONG, "bold", True)):
            text = "".join(letters[index] if is_wrong[index] == wanted else " " for index in line)
            axis.text(0, number, text, va="top", family="monospace", fontsize=7.5, color=colour, fontweight=weight)
    if more > 0:
        axis.text(0, top + MOST_LINES, f"... {more:,} more lines", va="top", fontsize=7.5, color=GREEDY)
    return top + _height(entry)
