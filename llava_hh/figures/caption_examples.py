"""Pictures with their captions before and after an intervention, hallucinated words in red."""

import textwrap
from pathlib import Path

from llava_hh.data.images import image_path, load_image
from llava_hh.figures.style import GREEDY, WRONG, plt, save_figure
from llava_hh.files import read_json

LINE_CHARACTERS = 58


def draw_caption_examples(before: Path, after: Path, image_folder: Path, out: Path, n_images: int = 3) -> None:
    """Draw the first `n_images` whose caption in `before` hallucinates and is another one in `after`.

    Args:
        before, after: captions_eval_results.json of two methods over the same images.
    """
    others = {entry["image_id"]: entry for entry in read_json(after)["sentences"]}
    wrong = [entry for entry in read_json(before)["sentences"] if entry["metrics"]["CHAIRs"]]
    changed = [entry for entry in wrong if others[entry["image_id"]]["caption"] != entry["caption"]]
    wrong = (changed or wrong)[:n_images]
    if not wrong:
        raise ValueError(f"{before}: no caption with a hallucinated object to draw")
    size = (8.2, 2.1 * len(wrong) + 0.4)
    figure, axes = plt.subplots(len(wrong), 2, figsize=size, width_ratios=(1, 3), squeeze=False, layout="constrained")
    for (left, right), entry in zip(axes, wrong, strict=True):
        left.imshow(load_image(image_path(image_folder, entry["image"])))
        for axis in (left, right):
            axis.axis("off")
        right.set(xlim=(0, LINE_CHARACTERS), ylim=(0, 11))
        last = _write(right, 10.5, f"greedy, image {entry['image_id']}", entry)
        _write(right, last - 0.8, "heads switched off (AD-HH)", others[entry["image_id"]])
    which = f"The first {len(wrong)} images whose hallucinating greedy caption is another one under AD-HH"
    figure.suptitle(f"{which}; hallucinated words in red", fontsize=9)
    save_figure(figure, out)


def _write(axis, top: float, title: str, entry: dict) -> float:
    """Write a caption in a fixed-width font, line by line; returns the height below it."""
    axis.text(0, top, title, fontsize=7.5, fontweight="bold", color=GREEDY)
    text, position = entry["caption"], 0
    spans = [(mention["start"], mention["end"]) for mention in entry["mentions"] if mention["hallucinated"]]
    for line in textwrap.wrap(text, LINE_CHARACTERS, break_long_words=False):
        top -= 1
        position = text.index(line, position)
        inside = [_is_inside(position + place, spans) for place in range(len(line))]
        for colour, wanted in (("black", False), (WRONG, True)):
            letters = "".join(letter if mark == wanted else " " for letter, mark in zip(line, inside, strict=True))
            weight = "bold" if wanted else "normal"
            axis.text(
                0, top, letters, family="monospace", fontsize=7.5, color=colour, fontweight=weight, parse_math=False
            )
        position += len(line)
    return top - 0.6


def _is_inside(position: int, spans: list[tuple[int, int]]) -> bool:
    return any(start <= position < end for start, end in spans)
