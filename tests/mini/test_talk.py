"""What mini is told, read as text against the annotations: the whole tuning set, without a word that is false."""

import json
import re
from collections import Counter, defaultdict
from hashlib import sha256
from pathlib import Path

import pytest

from llava_hh.metrics.chair.chair import find_objects
from llava_hh.mini import talk
from llava_hh.mini.dataset import SPLITS, write_split
from llava_hh.mini.world import CATEGORIES, IMAGE_PIXELS, SCENES
from llava_hh.models.questions import DESCRIBE

TUNE = SPLITS[0]
NUMBERS = {"a": 1, "an": 1, "two": 2, "three": 3, "one": 1, "none": 0, "0": 0, "1": 1, "2": 2, "3": 3}
COUNTED = re.compile(r"\b(a|an|two|three) ((?:[a-z]+ )?[a-z]+)", re.I)
DIGESTS = {  # sha256, first 16 digits
    "annotations/instances_tune.json": "4e34275027947f9b",
    "annotations/captions_tune.json": "b31e7dd8e1356832",
    "instruct_tune.json": "ecbb6b0da0cdc47d",
}
QUESTIONS = {
    "is there": r"(?:Is there|Can you see) an? (.+) (?:in the image|in the picture|here)\?",
    "how many": r"How many (.+) are (?:there|in the image)\?",
    "where": r"(?:Where|On which side) is the (.+)\?",
}


@pytest.fixture(scope="module")
def tuning_set(tmp_path_factory) -> Path:
    """The tuning set without its pictures."""
    folder = tmp_path_factory.mktemp("tune")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llava_hh.mini.dataset.render", lambda scene, rng: NoPicture())
        write_split(TUNE, folder)
    return folder


class NoPicture:
    def save(self, path: Path, quality: int) -> None:
        path.touch()


@pytest.fixture(scope="module")
def boxes(tuning_set) -> dict[int, dict[str, list]]:
    """By image and category, the boxes of the annotations."""
    written = json.loads((tuning_set / "annotations" / "instances_tune.json").read_text())
    names = {row["id"]: row["name"] for row in written["categories"]}
    found = {row["id"]: defaultdict(list) for row in written["images"]}
    for row in written["annotations"]:
        found[row["image_id"]][names[row["category_id"]]].append(row["bbox"])
    return found


def category_of(words: str) -> str:
    [mention] = find_objects(f"There is {words}.")
    return mention.node


def check_statement(text: str, truth: dict[str, list], where: str) -> list[str]:
    """Every object that a text names is annotated, as many as it says; on the side that it says. The named ones."""
    named = [mention.node for mention in find_objects(text)]
    assert set(named) <= set(truth), (where, text)
    for sentence in text.split(". "):
        told = {category_of(words): NUMBERS[number.lower()] for number, words in counted(sentence)}
        assert all(len(truth[category]) == number for category, number in told.items()), (where, sentence)
        assert [*told] == [mention.node for mention in find_objects(sentence)], (where, sentence)
        if sides := re.findall(r"^On the (left|right)\b", sentence):
            assert all(sides[0] == side(truth[category]) for category in told), (where, sentence)
    return named


def counted(sentence: str) -> list[tuple[str, str]]:
    """(number, object) of "a fork", "two wine glasses": where the words name an object."""
    found = []
    for number, words in COUNTED.findall(sentence):
        for candidate in (words, words.split(" ")[0]):
            if len(find_objects(f"There is {candidate}.")) == 1:
                found.append((number, candidate))
                break
    return found


def side(boxes: list) -> str | None:
    """Where the only box lies, clearly off the middle."""
    [(x, y, width, height)] = boxes
    across, down = (2 * x + width) / IMAGE_PIXELS - 1, (2 * y + height) / IMAGE_PIXELS - 1
    if max(abs(across), abs(down)) < 0.2:
        return None
    return ("right" if across > 0 else "left") if abs(across) >= abs(down) else "bottom" if down > 0 else "top"


def test_no_caption_of_the_tuning_set_says_what_is_false(tuning_set, boxes):
    rows = json.loads((tuning_set / "annotations" / "captions_tune.json").read_text())["annotations"]
    assert len(rows) == 5 * TUNE.size
    for row in rows:
        truth = boxes[row["image_id"]]
        named = check_statement(row["caption"], truth, row["image_id"])
        assert sorted(named) == sorted(truth), row  # all of them, none twice
        largest = max(truth, key=lambda category: sum(width * height for *_, width, height in truth[category]))
        if row["caption"].startswith(("By size", "The larger")):
            area = {name: sum(box[2] * box[3] for box in listed) for name, listed in truth.items()}
            assert area[named[0]] == area[largest] and sorted(named, key=area.get, reverse=True)[0] == named[0], row


def test_no_answer_of_the_tuning_set_is_false(tuning_set, boxes):
    """Every turn of every conversation; denials name no object."""
    kinds = Counter()
    for row in json.loads((tuning_set / "instruct_tune.json").read_text()):
        truth, turns = boxes[int(row["id"])], row["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert row["image"] == f"tune/COCO_tune_{int(row['id']):012d}.jpg" and turns[0]["value"].startswith("<image>\n")
        for question, answer in zip(turns[::2], turns[1::2], strict=True):
            kinds[check_answer(question["value"].removeprefix("<image>\n"), answer["value"], truth)] += 1
    assert len(kinds) == 7 and min(kinds.values()) > 150
    assert kinds["is there: yes"] == pytest.approx(kinds["is there: no"], rel=0.15)


def check_answer(question: str, answer: str, truth: dict[str, list]) -> str:
    """That an answer is true of the annotations; what was asked."""
    asked = question.removesuffix(talk.ONE_WORD)
    for kind, pattern in QUESTIONS.items():
        if found := re.fullmatch(pattern, asked):
            assert not find_objects(answer), (question, answer)
            listed = truth.get(category_of(found[1]), [])
            if kind == "is there":
                assert answer in (("Yes", "Yes, there is.") if listed else ("No", "No, there is not."))
                return f"{kind}: {'yes' if listed else 'no'}"
            if kind == "how many":
                said = re.fullmatch(r"(?:There (?:is|are) )?(\w+)\.?", answer)
                assert NUMBERS[said[1]] == len(listed), (question, answer)
            else:
                said = re.fullmatch(r"(?:It is (?:on|at) the )?(\w+)\.?", answer)
                assert said[1].lower() == side(listed), (question, answer)
            return kind
    named = check_statement(answer, truth, question)
    assert len(set(named)) == len(named)
    if asked in talk.SHORT:
        return "short"
    assert sorted(named) == sorted(truth)
    assert asked in talk.LONG + talk.LIST
    return "list" if asked in talk.LIST else "long"


def test_the_checks_find_what_is_false():
    truth = {"fork": [[0, 60, 20, 20]], "cup": [[100, 60, 20, 20], [60, 60, 10, 10]]}
    check_statement("Here we see a fork and two cups. On the left, there is a fork.", truth, "")
    for false in ("There is a knife.", "There is a cup.", "There are two forks.", "On the right, there is a fork."):
        with pytest.raises(AssertionError):
            check_statement(false, truth, "")
    for question, answer in {
        "Is there a fork in the image?": "No",
        "Can you see a knife here?": "Yes, there is.",
        "Is there a knife in the picture?": "No, there is no knife.",
        "How many cups are there?": "1",
        "Where is the fork?": "It is on the right.",
        DESCRIBE: "The image shows a fork.",
    }.items():
        with pytest.raises(AssertionError):
            check_answer(question, answer, truth)


def test_the_tuning_set_is_the_same_every_time(tuning_set):
    """Annotations, captions and conversations; pictures are drawn from seeds of their own."""
    assert {name: sha256((tuning_set / name).read_bytes()).hexdigest()[:16] for name in DIGESTS} == DIGESTS


def test_templates_and_places_name_no_object():
    for templates in (*talk.ORDERS, talk.MIDDLES, talk.SIDES, talk.REMARKS, talk.ENDINGS):
        for template in templates:
            for place in SCENES:
                text = template.format(place=talk.article(place), things="it", is_="is", side="left")
                assert not find_objects(text), template


@pytest.mark.parametrize("category", CATEGORIES)
def test_plurals_are_countable_by_chair(category):
    for number in (1, 2, 3):
        assert category_of(talk.counted(category, number)) == category
