"""MME's hallucination subset against a table worked out by hand, in its published layout."""

import json
from pathlib import Path

import pytest

from llava_hh.data.mme import CATEGORIES, load_mme
from llava_hh.metrics.mme import category_metrics, parse_answer, score_mme
from tests.support.verbs import score_benchmark

ASK = " Please answer yes or no."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images in each category; those of color in the layout of MME's larger categories."""
    for category in CATEGORIES:
        inner = tmp_path / category / ("questions_answers_YN" if category == "color" else "")
        inner.mkdir(parents=True)
        for image in ("0001", "0002"):
            lines = [f"Is there a dog in {image}?{ASK}\tYes", f"Is there a cat in {image}? {ASK}\tNo"]
            (inner / f"{image}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def rows_of(texts: dict[str, list[str]], suffix: str = ASK) -> list[dict]:
    """Answers of each category: dog and cat of the first image, then of the second."""
    return [
        {
            "question_id": f"{category}/000{1 + place // 2}.jpg",
            "prompt": f"Is there a {('dog', 'cat')[place % 2]} in 000{1 + place // 2}?{suffix}",
            "text": text,
        }
        for category, answers in texts.items()
        for place, text in enumerate(answers)
    ]


TEXTS = {
    "existence": ["Yes", "No", "yes, it is", "No."],  # all right
    "count": ["Yes", "Yes", "Yes", "No"],  # one image right
    "position": ["Maybe", "No", "No", "Yes"],  # one question right
    "color": ["No", "Yes", "No", "It is not"],  # none; "It i" is neither
}


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("suffix", [ASK, "", "\nAnswer the question using a single word or phrase."])
def test_all_numbers_by_hand(folder, tmp_path, capsys, suffix):
    other = {"question_id": "celebrity/images/tt.jpg", "prompt": "Is he?", "text": "Yes"}
    answers = write(tmp_path / "answers.jsonl", [other, *reversed(rows_of(TEXTS, suffix))])
    score_benchmark(["--benchmark", "mme", "--answers", str(answers), "--annotations", str(folder)])
    result = json.loads((tmp_path / "mme_results.json").read_text())
    expected = {
        "existence": {"images": 2, "acc": 1.0, "acc_plus": 1.0, "score": 200.0, "yes_ratio": 0.5, "other": 0},
        "count": {"images": 2, "acc": 0.75, "acc_plus": 0.5, "score": 125.0, "yes_ratio": 0.75, "other": 0},
        "position": {"images": 2, "acc": 0.25, "acc_plus": 0.0, "score": 25.0, "yes_ratio": 0.25, "other": 1},
        "color": {"images": 2, "acc": 0.0, "acc_plus": 0.0, "score": 0.0, "yes_ratio": 0.25, "other": 1},
    }
    assert {name: result[name] for name in CATEGORIES} == expected
    assert [result[name] for name in ("object_level", "attribute_level", "total")] == [325.0, 25.0, 350.0]
    printed = capsys.readouterr().out.splitlines()
    assert printed[1] == "count: score 125.0, acc 75.0%, acc+ 50.0% (2 images, 0 answers neither yes nor no)"
    assert printed[4] == "object level 325.0, attribute level 25.0, total 350.0"


def test_one_image():
    """An image counts for acc+ only when both are right; the share of yes is of the answers."""
    metrics = category_metrics([(("yes", "yes"), ("no", "yes"))])
    assert (metrics["acc"], metrics["acc_plus"], metrics["score"], metrics["yes_ratio"]) == (0.5, 0.0, 50.0, 1.0)


@pytest.mark.parametrize(
    ("text", "answer"),
    [("yes", "yes"), ("NO", "no"), ("Not", "no"), ("know", "no"), ("A no", "no"), ("", "other"), ("It is no", "other")],
)
def test_answers(text, answer):
    assert parse_answer(text) == answer


def test_files_of_macos_are_passed_over(folder):
    questions = load_mme(folder)
    for path in list(folder.rglob("*.txt")):
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07Mac OS X")
    assert load_mme(folder) == questions


def test_a_missing_answer_stops(folder):
    questions = load_mme(folder)
    assert len(questions) == 16 and questions[0].answer == "yes"
    answers = {question.key: "Yes" for question in questions}
    del answers[questions[5].key]
    with pytest.raises(ValueError, match=r"no answer to count/0001: 'Is there a cat in 0001"):
        score_mme(questions, answers)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "count/0001.txt").write_text("Is it?\tYes\n"), "0001.txt: has 1 questions"),
        (lambda folder: (folder / "count/0001.txt").write_text("Is it?\tYes\nIs?\tPerhaps"), "0001.txt, line 2"),
        (lambda folder: (folder / "count/0001.txt").write_text("Is it? Yes\nIs?\tNo"), "0001.txt, line 1"),
        (lambda folder: (folder / "count/0001.txt").write_text("Is it?\tYes\nIs it?\tNo"), "same question twice"),
        (lambda folder: (folder / "count/0001.txt").write_bytes(b"\xff\t"), "0001.txt: not UTF-8"),
        (lambda folder: (folder / "count").rename(folder / "counts"), "no question files"),
        (
            lambda folder: write(folder / "answers.jsonl", [{"question_id": 1, "prompt": "", "text": ""}]),
            "is 1; expect",
        ),
        (lambda folder: write(folder / "answers.jsonl", [{"question_id": "color/1.jpg", "text": ""}]), "'prompt' is"),
        (lambda folder: write(folder / "answers.jsonl", rows_of(TEXTS)[:3] * 2), "row 4: answers a question for"),
        (lambda folder: write(folder / "answers.jsonl", [["Yes"]]), "expected an object, found a list"),
    ],
)
def test_damaged_files_are_one_line(folder, capsys, damage, message):
    answers = write(folder / "answers.jsonl", rows_of(TEXTS))
    damage(folder)
    with pytest.raises(SystemExit) as stopped:
        score_benchmark(["--benchmark", "mme", "--answers", str(answers), "--annotations", str(folder)])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1 and message in error
