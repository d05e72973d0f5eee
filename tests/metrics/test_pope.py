"""POPE's scores against hand-worked tables and brute force, its parsers apart, its questions against a slow builder."""

import json
import random
import re
from collections import Counter

import numpy as np
import pytest

from llava_hh.data.pope import KINDS, ask_for, build_questions, load_questions
from llava_hh.metrics.pope import METRICS, PARSERS, compare, parse_answer, resampled_metrics, score, summarise

READINGS = [  # answer, then what llava, vcd under the label yes, vcd under the label no, and strict take it for
    ("Yes", "yes", "yes", "yes", "yes"),
    ("No.", "no", "no", "no", "no"),
    ("no, there is none", "no", "no", "no", "no"),
    ("There is not a dog", "no", "no", "no", "unknown"),
    ("NO", "yes", "no", "no", "no"),
    ("Nope", "yes", "no", "no", "unknown"),
    ("", "yes", "no", "yes", "unknown"),
    ("A snowboard", "yes", "no", "no", "unknown"),
    ("eyes", "yes", "yes", "yes", "unknown"),
    ("Yes. No", "yes", "yes", "no", "yes"),
    ("It is. No", "yes", "no", "no", "no"),
    ("Maybe\nno", "yes", "no", "no", "no"),
    ("Well,no", "yes", "no", "no", "no"),
]


@pytest.mark.parametrize(("answer", "llava", "vcd_yes", "vcd_no", "strict"), READINGS)
def test_parsers_apart(answer, llava, vcd_yes, vcd_no, strict):
    found = [parse_answer(answer, *how) for how in (("llava", "yes"), ("vcd", "yes"), ("vcd", "no"), ("strict", "no"))]
    assert found == [llava, vcd_yes, vcd_no, strict]


ANSWERS = ["Yes", "Yes", "Nope", "No", "A snowboard", "NO", "no", ""]
LABELS = ["yes", "no", "no", "no", "no", "yes", "yes", "yes"]
BY_HAND = {  # tp, fp, tn, fn, yes, unknown
    "llava": (3, 3, 1, 1, 6, 0),
    "vcd": (1, 1, 3, 3, 2, 0),
    "strict": (1, 1, 1, 3, 2, 3),  # Nope, snowboard and the empty answer are unknown; the last of them is missed
}


@pytest.mark.parametrize("parser", PARSERS)
def test_score_by_hand(parser):
    tp, fp, tn, fn, yes, unknown = BY_HAND[parser]
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    expected = {"accuracy": (tp + tn) / 8, "precision": precision, "recall": recall, "yes_ratio": yes / 8}
    expected |= {"f1": 2 * precision * recall / (precision + recall), "unknown": unknown / 8}
    assert score(ANSWERS, LABELS, parser) == pytest.approx(
        expected | {"tp": tp, "fp": fp, "tn": tn, "fn": fn, "n": 8}, abs=1e-12
    )


@pytest.mark.parametrize("parser", PARSERS)
def test_degenerate_scores(parser):
    zeros = dict.fromkeys(METRICS, 0.0)
    assert score([], [], parser) == zeros | dict.fromkeys(("tp", "fp", "tn", "fn", "n"), 0)
    all_no = score(["No", "No"], ["yes", "yes"], parser)
    assert {name: all_no[name] for name in METRICS} == zeros
    all_yes = score(["Yes"] * 2, ["no"] * 2, parser)
    assert {name: all_yes[name] for name in METRICS} == zeros | {"yes_ratio": 1.0}
    with pytest.raises(ValueError, match="no answers to summarise"):
        summarise([], parser)


def test_labels_and_counts_that_do_not_fit():
    assert score(["Yes", "No"], ["maybe", " NO "], "vcd") == pytest.approx(
        {**dict.fromkeys(METRICS, 0), "accuracy": 0.5, "unknown": 0.5, "tp": 0, "fp": 0, "tn": 1, "fn": 0, "n": 2}
    )
    for parser in ("llava", "strict"):
        with pytest.raises(ValueError, match="label 'maybe': expected yes or no"):
            score(["Yes"], ["maybe"], parser)
    with pytest.raises(ValueError, match="parser 'loose' is not known; choose one of: llava, vcd, strict"):
        score(["Yes"], ["yes"], "loose")
    with pytest.raises(ValueError, match="2 answers but 1 labels"):
        score(["Yes", "No"], ["yes"])


def polled(seed: int) -> list[dict]:
    """Rows of 9 images with 1 to 4 questions each."""
    rng = random.Random(seed)
    images = [image_id for image_id in range(9) for _ in range(rng.randint(1, 4))]
    return [
        {"question_id": place, "image_id": image_id, "label": rng.choice(("yes", "no")), "answer": rng.choice(ANSWERS)}
        for place, image_id in enumerate(images)
    ]


@pytest.mark.parametrize("parser", PARSERS)
def test_intervals_are_over_images(parser):
    """Each drawn sample scored by itself, image after image; and the interval of a difference from pairs of samples."""
    rows = polled(0)
    others = [row | {"answer": row["label"]} if place % 3 else row for place, row in enumerate(rows)]
    draws = np.random.default_rng(5).integers(9, size=(400, 9))

    def slow(source):
        drawn = [[row for image_id in draw for row in source if row["image_id"] == image_id] for draw in draws]
        scores = [score([row["answer"] for row in own], [row["label"] for row in own], parser) for own in drawn]
        return np.array([[own[name] for name in METRICS] for own in scores])

    ours, theirs = resampled_metrics(rows, parser, seed=1), slow(rows)
    assert ours.mean(0) == pytest.approx(theirs.mean(0), abs=0.05) and ours.std(0) == pytest.approx(
        theirs.std(0), abs=0.03
    )
    interval = summarise(rows, parser)["interval"]
    difference = compare(others, rows, parser)
    paired = slow(others) - theirs
    for column, name in enumerate(METRICS):
        assert interval[name] == pytest.approx(np.percentile(theirs[:, column], (2.5, 97.5)), abs=0.12)
        found = difference[name]
        assert found["interval"]["difference"] == pytest.approx(np.percentile(paired[:, column], (2.5, 97.5)), abs=0.12)
        values = [score([r["answer"] for r in own], [r["label"] for r in own], parser)[name] for own in (others, rows)]
        assert found["difference"] == pytest.approx(values[0] - values[1], abs=1e-5)


def test_the_same_answers_differ_by_nothing_and_other_questions_are_refused():
    rows = polled(1)
    same = {"difference": 0, "interval": {"difference": [0, 0]}}
    assert compare(rows, [dict(row) for row in rows], "llava") == dict.fromkeys(METRICS, same)
    with pytest.raises(ValueError, match="the same questions"):
        compare(rows, rows[1:], "llava")


NAMES = ["apple", "bed", "car", "dog", "elephant", "fork", "kite", "oven", "person", "umbrella"]


def annotated(seed: int, n_images: int = 30) -> tuple[list[dict], dict[int, set[str]]]:
    rng = random.Random(seed)
    images = [{"image_id": n, "file_name": f"{n}.png"} for n in rng.sample(range(1000), n_images)]
    return images, {image["image_id"]: set(rng.sample(NAMES, rng.randint(1, 6))) for image in images}


@pytest.mark.parametrize("kind", KINDS)
def test_questions_by_the_definition(kind):
    """Each absent object follows from the annotations and what was asked about the image before."""
    images, objects = annotated(0)
    questions = build_questions(images, objects, kind, seed=3)
    enough = [image for image in images if len(objects[image["image_id"]]) >= 3]
    assert [q["question_id"] for q in questions] == list(range(1, 6 * len(enough) + 1))
    own = [objects[image["image_id"]] for image in enough]
    frequency = Counter(name for names in own for name in names)
    free = set()
    for place, image in enumerate(enough):
        there, asked = objects[image["image_id"]], questions[6 * place : 6 * place + 6]
        assert {(q["image_id"], q["image"]) for q in asked} == {(image["image_id"], image["file_name"])}
        assert [q["label"] for q in asked] == ["yes", "no"] * 3
        assert len({q["object"] for q in asked}) == 6
        assert {q["object"] for q in asked[::2]} <= there
        left = sorted(set(frequency) - there)
        for present, absent in zip(asked[::2], asked[1::2], strict=True):
            beside = {name: sum(present["object"] in names and name in names for names in own) for name in left}
            if kind == "popular":
                assert absent["object"] == min(left, key=lambda name: (-frequency[name], name))
            elif kind == "adversarial" and max(beside.values()):
                assert absent["object"] == min(left, key=lambda name: (-beside[name], name))
            else:
                assert absent["object"] in left
                free.add(left.index(absent["object"]))
            left.remove(absent["object"])
    assert kind != "random" or len(free) > 4  # not always the same place of the list


def test_all_kinds_ask_for_the_same_objects_and_a_seed_draws_others():
    images, objects = annotated(1)
    present = {
        (kind, seed): [q["object"] for q in build_questions(images, objects, kind, seed) if q["label"] == "yes"]
        for kind in KINDS
        for seed in (0, 1)
    }
    assert present["random", 0] == present["popular", 0]
    assert present["random", 0] != present["random", 1]
    first = build_questions(images, objects, "random", 0)
    assert first == build_questions(images, objects, "random", 0)
    more = [{"image_id": 5000, "file_name": "x.png"}, *images]
    again = build_questions(more, objects | {5000: set(NAMES[:4])}, "random", 0)[6:]
    assert [q["text"] for q in again] == [q["text"] for q in first]


def test_rare_companions_fall_back_to_chance():
    images = [{"image_id": n, "file_name": str(n)} for n in range(2)]
    objects = {0: {"apple", "bed", "car"}, 1: {"dog", "fork", "kite"}}
    asked = build_questions(images, objects, "adversarial")
    assert {q["object"] for q in asked if q["image_id"] == 0 and q["label"] == "no"} == objects[1]


def test_articles_and_what_cannot_be_asked():
    assert ask_for("apple") == "Is there an apple in the image?"
    assert ask_for("dining table") == "Is there a dining table in the image?"
    images, objects = annotated(2)
    with pytest.raises(ValueError, match="kind 'hard' of POPE is not known; choose one of: random, popular, advers"):
        build_questions(images, objects, "hard")
    with pytest.raises(
        ValueError, match=r"image 7: 0 categories of the drawn images are not in it, .*; draw more images \(--limit\)"
    ):
        build_questions([{"image_id": 7, "file_name": "7"}], {7: {"a", "b", "c"}}, "random")
    assert build_questions([{"image_id": 7, "file_name": "7"}], {7: {"a", "b"}}, "random") == []


GOOD = {"question_id": 1, "image": "COCO_val2014_000000016631.jpg", "text": "Is there a dog?", "label": "yes"}
BAD = [
    (b"", "no row there; expected at least one"),
    (b"{", "row 1: not JSON"),
    (b"\xff\xfe", "row 1: not JSON"),
    (b"[]", "row 1: expected an object, found a list"),
    (b"{}", "row 1: no `question_id`"),
    (json.dumps(GOOD | {"image": 3}).encode(), "row 1: image is 3; expected a text"),
    (json.dumps(GOOD).encode() + b"\n" + json.dumps(GOOD | {"label": "maybe"}).encode(), "row 2: label 'maybe'"),
]


def test_official_files(tmp_path):
    path = tmp_path / "coco_pope_random.json"
    path.write_bytes(json.dumps(GOOD).encode() + b"\r\n\n" + json.dumps(GOOD | {"question_id": 2}).encode())
    rows = load_questions(path)
    assert rows == [{**GOOD, "image_id": "COCO_val2014_000000016631", "question_id": n} for n in (1, 2)]


@pytest.mark.parametrize(("content", "message"), BAD, ids=[message for _, message in BAD])
def test_damaged_files_are_one_line(content, message, tmp_path):
    path = tmp_path / "questions.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)) as stopped:
        load_questions(path)
    assert str(path) in str(stopped.value) and "\n" not in str(stopped.value)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_questions(tmp_path / "nowhere")
