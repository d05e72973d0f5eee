"""AMBER against tables worked out by hand, and against lists walked as its own code walks them."""

import json
from pathlib import Path
from random import Random

import pytest

from llava_hh.data.amber import Annotation, load_amber
from llava_hh.metrics.amber import (
    amber_score,
    answer_metrics,
    find_nouns,
    generative_metrics,
    parse_answer,
    score_amber,
    score_description,
)
from tests.support.verbs import score_benchmark

RELATION = {
    "dog": [],
    "cat": [],
    "grass": ["ground"],
    "ground": ["floor"],
    "person": ["people", "man", "woman"],
    "bus": ["car", "window"],
    "bin": ["can"],
    "television": ["TV", "screen"],
    "light": [],
}
ANNOTATIONS = [
    {"id": 1, "type": "generative", "truth": ["dog", "grass", "person"], "hallu": ["cat", "bus"]},
    {"id": 2, "type": "generative", "truth": ["television", "ground"], "hallu": ["person"]},
    {"id": 3, "type": "discriminative-hallucination", "truth": "no"},
    {"id": 4, "type": "discriminative-attribute-state", "truth": "yes"},
    {"id": 5, "type": "discriminative-attribute-number", "truth": "no"},
    {"id": 6, "type": "discriminative-attribute-action", "truth": "yes"},
    {"id": 7, "type": "discriminative-relation", "truth": "yes"},
    {"id": 8, "type": "relation", "truth": "no"},
]
ONE, TWO = (
    "Two dogs and a man stand on the ground. A cat looks at the bus, a dog at a light.",
    "A TV. You can see a screen.",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "relation.json").write_text(json.dumps(RELATION))
    (tmp_path / "safe_words.txt").write_text("light\nsign")
    (tmp_path / "annotations.json").write_text(json.dumps(ANNOTATIONS))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "nouns"),
    [
        ("Dogs and BUSES near the bus.", ["dog", "bus", "bus"]),
        ("You can see a bus.", ["bus"]),  # "can" stands for a bin in relation.json; here it is no noun
        ("People watch TV.", ["people", "tv"]),
        ("A zebra.", []),
        ("", []),
    ],
)
def test_nouns(text, nouns):
    assert find_nouns(text, frozenset(["dog", "bus", "can", "people", "person", "tv"])) == nouns


def test_a_description_by_hand(folder):
    amber = load_amber(folder)
    found = score_description(ONE, amber.annotations[1], amber)
    assert found.objects == ["dog", "man", "ground", "cat", "bus", "dog", "light"]
    assert found.hallucinated == ["cat", "bus"]  # light is a safe word
    assert found.covered == {0, 1, 2} and found.targets == {0, 1}
    found = score_description("A floor, people.", amber.annotations[2], amber)
    assert (found.hallucinated, found.covered, found.targets) == (["people"], {1}, {0})


def test_an_associated_word_stands_for_the_first_that_has_it(folder):
    amber = load_amber(folder)
    found = score_description("The ground.", Annotation("generative", ("ground", "grass")), amber)
    assert found.covered == {1}, "as in AMBER's code: the list of grass comes before the objects themselves"
    twice = Annotation("generative", ("dog", "dog"))
    assert score_description("A dog and a dog.", twice, amber).covered == {0}


def walk(words: list[str], truth: list[str], targets: list[str]) -> tuple[list[str], set[int], set[int]]:
    """The lists of AMBER's code: associated words of every object, then the objects, the first match wins."""
    found: tuple[list[str], set[int], set[int]] = ([], set(), set())
    lists = [
        [(word, place) for place, name in enumerate(each) for word in RELATION[name]]
        + [(name, place) for place, name in enumerate(each)]
        for each in (truth, targets)
    ]
    for word in words:
        if word in ("light", "sign"):
            continue
        for known, place in lists[0]:
            if word == known:
                found[1].add(place)
                break
        else:
            found[0].append(word)
            for known, place in lists[1]:
                if word == known:
                    found[2].add(place)
                    break
    return found


def test_many_descriptions_as_lists_are_walked(folder):
    amber, random, names = load_amber(folder), Random(0), sorted(set(RELATION) - {"television"})
    words = sorted({*names, "floor", "people", "man", "woman", "car", "window"})
    for _ in range(100):
        truth, targets = (random.choices(names, k=random.randint(0, 5)) for _ in range(2))
        text = "".join(f"The {random.choice(words)}. " for _ in range(random.randint(0, 8)))
        found = score_description(text, Annotation("generative", tuple(truth), tuple(targets)), amber)
        assert (found.hallucinated, found.covered, found.targets) == walk(found.objects, truth, targets)


def test_all_numbers_by_hand(folder):
    answers = {1: ONE, 2: TWO, 3: "No", 4: "no, it is not", 5: "Yes", 6: "Yes.", 7: "It is.", 8: "No."}
    result = score_amber(answers, load_amber(folder))
    # named: 7 + 2 objects; of the annotated 5, dog, grass, person and television; of the targets 3, cat and bus
    expected = {"n": 2, "chair": 2 / 9, "cover": 4 / 5, "hal": 1 / 2, "cog": 2 / 3, "objects": 9}
    assert result["generative"] == pytest.approx(expected)
    # right: 3, 6, 8; said no: 3, 4, 8; are no: 3, 5, 8
    whole = {"n": 6, "accuracy": 3 / 6, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "other": 1}
    assert result["discriminative"]["all"] == pytest.approx(whole)
    attribute = {"n": 3, "accuracy": 1 / 3, "precision": 0.0, "recall": 0.0, "f1": 0.0, "other": 0}
    assert result["discriminative"]["attribute"] == pytest.approx(attribute)
    relation = {"n": 2, "accuracy": 1 / 2, "precision": 1.0, "recall": 1.0, "f1": 1.0, "other": 1}
    assert result["discriminative"]["relation"] == pytest.approx(relation)
    assert result["amber_score"] == pytest.approx((1 - 2 / 9 + 2 / 3) / 2) == amber_score(2 / 9, 2 / 3)
    with pytest.raises(ValueError, match="AMBER has no query 9"):
        score_amber({9: "Yes"}, load_amber(folder))


def test_no_is_the_positive_class():
    pairs = [("no", "no"), ("no", "yes"), ("no", "other"), ("yes", "no"), ("yes", "yes")]
    expected = {"n": 5, "accuracy": 2 / 5, "precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5, "other": 1}
    assert answer_metrics(pairs) == pytest.approx(expected)


def test_nothing_to_divide_by(folder):
    none = {"n": 0, "accuracy": None, "precision": None, "recall": None, "f1": None, "other": 0}
    assert answer_metrics([]) == none
    never = answer_metrics([("yes", "yes")])
    assert (never["accuracy"], never["precision"], never["recall"], never["f1"]) == (1.0, None, None, None)
    empty = {"n": 0, "chair": None, "cover": None, "hal": None, "cog": None, "objects": 0}
    assert generative_metrics([]) == empty
    silent = score_amber({1: ""}, load_amber(folder))
    assert silent["generative"] == {"n": 1, "chair": None, "cover": 0.0, "hal": 0.0, "cog": 0.0, "objects": 0}
    assert silent["amber_score"] is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [("Yes", "yes"), ("No", "no"), ("no, there is none", "no"), ('"YES!"', "yes"), ("not", "other"), ("", "other")],
)
def test_answers(text, answer):
    assert parse_answer(text) == answer


def test_the_script(folder, capsys):
    answers = folder / "captions.jsonl"
    rows = [{"question_id": 1, "text": ONE}, {"question_id": 3, "text": "No"}]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--benchmark", "amber", "--answers", str(answers), "--annotations", str(folder)]
    score_benchmark(flags)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "descriptions (n = 1): chair 28.6%, cover 100.0%, hal 100.0%, cog 100.0%"
    assert printed[1] == "questions, all (n = 1): accuracy 100.0%, precision 100.0%, recall 100.0%, f1 100.0%"
    assert printed[-2] == "AMBER score 85.7"
    result = json.loads((folder / "amber_results.json").read_text())
    assert result["sentences"][0]["hallucinated"] == ["cat", "bus"]
    assert result["generative"]["chair"] == 2 / 7
    with pytest.raises(SystemExit):
        score_benchmark([*flags, "--out", str(answers)])
    assert "is an input of this run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("relation.json", None, "no such file"),
        ("relation.json", "[]", "expected a JSON object"),
        ("relation.json", '{"dog": "puppy"}', "expected a list of texts"),
        ("annotations.json", '[{"id": 1', "not JSON"),
        ("annotations.json", '{"id": 1}', "not JSON with a list of objects with `id`"),
        ("annotations.json", "[3]", "row 1: expected an object"),
        ("annotations.json", '[{"id": "one"}]', "id is 'one'; expected a whole number"),
        ("annotations.json", '[{"id": 1, "type": "x"}]', "type is 'x'"),
        ("annotations.json", '[{"id": 1, "type": "relation", "truth": "No"}]', "expected yes or no"),
        ("annotations.json", '[{"id": 1, "type": "generative", "truth": ["sky"], "hallu": []}]', "'sky' is not in"),
        ("annotations.json", json.dumps(ANNOTATIONS[2:3] * 2), "repeats the id 3"),
        ("answers.jsonl", None, "no such file"),
        ("answers.jsonl", "\n", "no row there"),
        ("answers.jsonl", "{", "row 1: "),
        ("answers.jsonl", '{"question_id": "one", "text": ""}', "'question_id' is 'one'; expected a whole number"),
        ("answers.jsonl", '{"question_id": 1}', "'text' is None"),
        ("answers.jsonl", '{"question_id": 3, "text": "No"}\n' * 2, "row 2: answers a question for the second time"),
    ],
)
def test_damaged_files_are_one_line(folder, capsys, file, content, message):
    (folder / "answers.jsonl").write_text('{"question_id": 3, "text": "No"}\n')
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    flags = ["--answers", str(folder / "answers.jsonl"), "--annotations", str(folder)]
    with pytest.raises(SystemExit) as stopped:
        score_benchmark(["--benchmark", "amber", *flags])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert message in error and file in error
