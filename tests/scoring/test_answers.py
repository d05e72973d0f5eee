"""score vqa: VQAv2 and GQA files by hand, the interval by a loop, and what is refused."""

import json

import numpy as np
import pytest

from llava_hh.metrics.statistics import RESAMPLES, image_weights
from tests.support.verbs import score_vqa


def vqa_file(path):
    """Three questions about two images, ten annotators each."""
    told = [(11, 5, "number", ["2"] * 10), (12, 5, "other", ["red"] * 2 + ["pink"] * 8), (13, 3, "number", ["4"] * 10)]
    entries = [
        {"question_id": q, "image_id": image, "answer_type": kind, "answers": [{"answer": each} for each in answers]}
        for q, image, kind, answers in told
    ]
    path.write_text(json.dumps({"annotations": entries, "info": {}}))
    return path


def gqa_file(path):
    entries = {"201": {"imageId": "n7", "answer": "left"}, "202": {"imageId": "n8", "answer": "yes"}}
    path.write_text(json.dumps(entries))
    return path


def answers_file(path, answers):
    path.write_text("".join(json.dumps({"question_id": q, "text": text}) + "\n" for q, text in answers))
    return path


def scored(tmp_path, truth, answers, *more):
    given = answers_file(tmp_path / "answers.jsonl", answers)
    score_vqa(["--answers", str(given), "--truth", str(truth), *more])
    return json.loads((tmp_path / "vqa_results.json").read_text())


def test_vqa_by_hand(tmp_path, capsys):
    result = scored(tmp_path, vqa_file(tmp_path / "truth.json"), [(13, "five"), (11, "Two."), (12, "red")])
    assert [row["accuracy"] for row in result["questions"]] == pytest.approx([1, 0.6, 0])
    overall = result["overall_metrics"]
    assert overall["accuracy"] == pytest.approx(1.6 / 3)
    assert overall["n"] == 3
    assert {kind: (own["accuracy"], own["n"]) for kind, own in overall["by_type"].items()} == {
        "number": (0.5, 2),
        "other": (pytest.approx(0.6), 1),
    }
    weights = np.concatenate(list(image_weights(2, RESAMPLES, 0)))  # image 3, image 5
    spread = [(0 * three + 1.6 * five) / (three + 2 * five) for three, five in weights]
    assert overall["interval"]["accuracy"] == pytest.approx(np.percentile(spread, (2.5, 97.5)))
    assert "number: 50.0% (0.0 to 100.0), n = 2" in capsys.readouterr().out


def test_gqa_by_hand(tmp_path):
    result = scored(tmp_path, gqa_file(tmp_path / "truth.json"), [("201", "Left."), ("202", "yes, it is")])
    assert [row["accuracy"] for row in result["questions"]] == [1, 0]
    assert result["overall_metrics"]["by_type"] == {}


def test_a_subset_on_request(tmp_path, capsys):
    truth = vqa_file(tmp_path / "truth.json")
    with pytest.raises(SystemExit):
        scored(tmp_path, truth, [(11, "2")])
    assert "2 of 3 questions have no answer, such as 12; --subset scores the others" in capsys.readouterr().err
    result = scored(tmp_path, truth, [(11, "2")], "--subset")
    assert (result["overall_metrics"]["accuracy"], result["overall_metrics"]["n"]) == (1, 1)


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        ('{"question_id": 99, "text": "no"}', [], "question 99 is not in"),
        (
            '{"question_id": 11, "text": "no"}\n{"question_id": 11, "text": "2"}',
            [],
            "row 2: answers a question for the second time",
        ),
        ('{"question_id": 11}', [], "row 1: no key 'text' (--text-key)"),
        ('{"question_id": 11, "text": 2}', [], "row 1: 'text' is 2; expected a string"),
        ("no", [], "row 1: not JSON"),
        ("", [], "no row there"),
        ('{"question_id": 11, "text": "no"}', ["--answers", "/nowhere/a.jsonl"], "/nowhere/a.jsonl: no such file"),
    ],
)
def test_wrong_answers_are_one_line(content, more, message, tmp_path, capsys):
    given, truth = tmp_path / "answers.jsonl", vqa_file(tmp_path / "truth.json")
    given.write_text(content)
    with pytest.raises(SystemExit) as stopped:
        score_vqa(["--answers", str(given), "--truth", str(truth), *more])
    assert stopped.value.code == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert message in error


def test_another_truth_is_one_line(tmp_path, capsys):
    truth = tmp_path / "truth.json"
    truth.write_text('{"annotations": [{"question_id": 1}]}')
    with pytest.raises(SystemExit):
        scored(tmp_path, truth, [(1, "yes")])
    assert "truth.json, row 1: expected VQAv2's annotations or GQA's questions, but found KeyError('image_id')" in (
        capsys.readouterr().err
    )
