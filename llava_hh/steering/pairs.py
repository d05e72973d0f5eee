"""Pairs of a truthful and a hallucinated caption of an image: from a file, or from COCO's annotations."""

import math
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

from llava_hh.data.coco import ImageAnnotations, annotation_files, load_annotations, load_image_list
from llava_hh.data.rows import FAULTS, in_words, text_of
from llava_hh.files.files import read_json_lines
from llava_hh.files.images import image_path
from llava_hh.metrics.chair.chair import Mention, find_objects, objects_of
from llava_hh.metrics.chair.singular import IRREGULAR
from llava_hh.metrics.chair.variants import category_of_word, plurals

# plurals of categories that no rule has
PLURALS = {"person": "people", "knife": "knives", "mouse": "mice"} | {one: one for one in ("sheep", "skis", "scissors")}
ARTICLE = re.compile(r"\b(a)n?(\s+)$", re.IGNORECASE)


class Pair(NamedTuple):
    """An image, what is asked of it, and two captions as answers."""

    image: Path
    question: str
    truthful: str
    hallucinated: str


def pairs_of_file(path: Path, folder: Path, n: int, seed: int) -> list[Pair]:
    """Draw pairs from JSON lines with `image` (a name in `folder`), `question`, `value` (truthful) and `h_value`.

    Raises:
        ValueError: a row of another form, or fewer rows than `n`; FileNotFoundError: no such file.
    Source: VTI's code and its hallucination_vti_demos.jsonl: 70 of 100 rows, drawn after a seed of 42.
    Differs: the code asks the question of the last row that was drawn of all images; ours asks each row's own.
    """
    expected = "JSON lines with `image`, `question`, `value` and `h_value`"
    pairs = []
    for number, row in read_json_lines(path, expected):
        try:
            texts = [text_of(row, key) for key in ("question", "value", "h_value")]
            pairs.append(Pair(image_path(folder, row["image"]), *texts))
        except FAULTS as error:
            raise ValueError(f"{path}, row {number}: expected {expected}; {in_words(error)}") from None
    if n > len(pairs):
        raise ValueError(f"{path}: {len(pairs)} rows, {n} were asked for; give a smaller --n-pairs")
    return random.Random(seed).sample(pairs, n)


def pairs_of_annotations(
    annotations: Path, split: str, folder: Path, n: int, seed: int, question: str
) -> tuple[list[Pair], list[Path]]:
    """Pairs of a reference caption, and the same with about half of its objects swapped; and the files read.

    Images are drawn until `n` have a reference caption that names one of their objects. What takes an object's place
    is a category that the image lacks, drawn by how often it stands beside the image's categories in the split.

    Raises:
        ValueError: fewer such images, or files of another form; FileNotFoundError: no such file.
    """
    files = annotation_files(annotations, (split,))
    names = {image["image_id"]: image["file_name"] for image in load_image_list(files[0])}
    known = load_annotations(annotations, names, (split,), allow_missing=True)
    beside = Counter(pair for entry in known.values() for pair in permutations(sorted(entry.categories), 2))
    rng, pairs = random.Random(seed), []
    for image_id in rng.sample([*known], len(known)):
        if captions := _two_captions(known[image_id], beside, rng):
            pairs.append(Pair(image_path(folder, names[image_id]), question, *captions))
        if len(pairs) == n:
            return pairs, files
    what = f"{len(pairs)} images have a caption with an object to swap, {n} were asked for"
    raise ValueError(f"{annotations}: {split}: {what}; give a smaller --n-pairs")


def _two_captions(
    entry: ImageAnnotations, beside: Mapping[tuple[str, str], int], rng: random.Random
) -> tuple[str, str] | None:
    """A reference caption of an image, and the same with objects swapped; None where it has none to swap."""
    shown = objects_of({0: entry})[0]
    found = {caption: find_objects(caption) for caption in dict.fromkeys(entry.captions)}
    named = [caption for caption, mentions in found.items() if mentions]
    if not named:
        return None
    caption = rng.choice(named)
    nodes = sorted({mention.node for mention in found[caption]})
    weights: Counter[str] = Counter()
    for (one, other), times in beside.items():
        if one in entry.categories and other not in shown:
            weights[other] += times
    swaps = {}
    for node in rng.sample(nodes, math.ceil(len(nodes) / 2)):
        if weights:
            swaps[node] = rng.choices(sorted(weights), [weights[other] for other in sorted(weights)])[0]
            del weights[swaps[node]]
    return (caption, swapped(caption, found[caption], swaps)) if swaps else None


def swapped(caption: str, mentions: Sequence[Mention], swaps: Mapping[str, str]) -> str:
    """The caption with other objects in the place of some: in the plural where it stood there, with its article."""
    for mention in reversed([each for each in mentions if each.node in swaps]):
        before, said = caption[: mention.start], caption[mention.start : mention.end]
        other = plural(swaps[mention.node]) if _is_plural(said) else swaps[mention.node]
        before = ARTICLE.sub(rf"\1{'n' * (other[0] in 'aeiou')}\2", before)
        other = other[0].upper() + other[1:] if said[0].isupper() else other
        caption = before + other + caption[mention.end :]
    return caption


def _is_plural(said: str) -> bool:
    words = said.lower().split()
    return words[-1] in IRREGULAR or " ".join(words) not in category_of_word()


def plural(category: str) -> str:
    """The plural of a COCO category."""
    *before, last = category.split(" ")
    return " ".join([*before, PLURALS.get(last) or plurals(last)[0]])
