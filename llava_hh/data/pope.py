"""POPE's questions: the official files, and question sets made from COCO-format annotations."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_hh.data.rows import in_words, text_of
from llava_hh.files.files import read_json_lines
from llava_hh.files.ids import number_or_text, whole_id

KINDS = ("random", "popular", "adversarial")
SUFFIXES = {  # what follows the question
    "none": "",
    "vcd": " Please answer this question with one word.",
    "llava": "\nAnswer the question using a single word or phrase.",
}
PER_LABEL = 3  # questions about objects that are there, and about others, for each image


def load_questions(path: Path) -> list[dict[str, Any]]:
    """Read a file of questions: JSON lines with question_id, image (a file name), text and label (yes or no).

    Returns: these, and `image_id`: the file's name without its ending, unless the row has one.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no question, or a row of another form; names the file and the row, from 1.
    """
    questions = []
    for number, row in read_json_lines(path, "POPE's questions, one a line"):
        try:
            ids = {"question_id": whole_id(row["question_id"], "question_id")}
            if "image_id" in row:
                ids["image_id"] = number_or_text(row["image_id"], "image_id")
            image, _, label = (text_of(row, key) for key in ("image", "text", "label"))
            if label not in ("yes", "no"):
                raise ValueError(f"label {label!r}; expected yes or no")
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path}, row {number}: {in_words(error)}") from None
        questions.append({"image_id": Path(image).stem, **row, **ids})
    return questions


def build_questions(
    images: Sequence[Mapping[str, Any]], objects: Mapping[int, set[str]], kind: str, seed: int = 42
) -> list[dict[str, Any]]:
    """Six questions an image: three objects that are annotated and three that are not.

    Which objects are not there: "random" ones; the most frequent ("popular": in the most of `images`); or those most
    often together with the object of the question before ("adversarial"; random ones when there are none left). Ties
    go by name, and no object is asked for twice about an image.

    Args:
        images: `image_id` and `file_name` each; those with fewer than three objects are left out.
        objects: the annotated categories of each image.
        kind: one of KINDS. All kinds ask for the same objects that are there.
    Raises:
        ValueError: an unknown kind, or too few categories to ask for.
    Source: Li et al., POPE, 2023, and RUCAIBox/POPE's generator.
    Differs: objects that are there are drawn by `seed`, where the released code takes the first three annotated ones.
        Before a vowel only the article changes; the released code puts "an" for every letter a of its template.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} of POPE is not known; choose one of: {', '.join(KINDS)}")
    asked = [image for image in images if len(objects[image["image_id"]]) >= PER_LABEL]
    frequency = Counter(name for image in asked for name in sorted(objects[image["image_id"]]))
    beside: dict[str, Counter] = {name: Counter() for name in frequency}
    for image in asked:
        shown = objects[image["image_id"]]
        for name in shown:
            beside[name].update(shown - {name})
    questions: list[dict[str, Any]] = []
    for image in asked:
        image_id, shown = image["image_id"], objects[image["image_id"]]
        absent = sorted(set(frequency) - shown)
        if len(absent) < PER_LABEL:
            few = f"{len(absent)} categories of the drawn images are not in it, and POPE asks for {PER_LABEL}"
            raise ValueError(f"image {image_id}: {few}; draw more images (--limit)")
        rng = random.Random(f"{seed} {image_id}")  # by image: one more image leaves the others as they are
        for present in rng.sample(sorted(shown), PER_LABEL):
            missing = _choose_absent(kind, absent, frequency, beside[present], rng)
            absent.remove(missing)
            for name, label in ((present, "yes"), (missing, "no")):
                named = {"question_id": len(questions) + 1, "image_id": image_id, "image": image["file_name"]}
                questions.append({**named, "text": ask_for(name), "label": label, "object": name})
    return questions


def ask_for(name: str) -> str:
    """POPE's question about an object."""
    return f"Is there {'an' if name[0] in 'aeiou' else 'a'} {name} in the image?"


def _choose_absent(kind: str, absent: Sequence[str], frequency: Counter, beside: Counter, rng: random.Random) -> str:
    if kind == "popular":
        return max(absent, key=lambda name: frequency[name])
    if kind == "adversarial":
        best = max(absent, key=lambda name: beside[name])
        if beside[best]:
            return best
    return rng.choice(absent)
