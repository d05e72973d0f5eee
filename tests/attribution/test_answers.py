"""attribute --answers: POPE's wrong answers against its right ones, end to end on a tiny checkpoint."""

import json
import re

import numpy as np
import pytest

import llava_hh as hh
from llava_hh.scripts import attribute, evaluate
from tests.support.main_job import read_attribution
from tests.support.tiny_checkpoint import save_polled_checkpoint
from tests.support.verbs import error_of, write_rows


@pytest.fixture(scope="module")
def polled(tiny_checkpoint, tmp_path_factory):
    """A checkpoint that knows yes and no, and says them."""
    save_polled_checkpoint(tiny_checkpoint, folder := tmp_path_factory.mktemp("polled") / "polled")
    return folder


@pytest.fixture
def flags(polled, tiny_coco, tmp_path) -> list[str]:
    given = ["--model", polled, "--image-folder", tiny_coco / "train2014", "--out", tmp_path / "out"]
    return [str(flag) for flag in (*given, "--list-length", 5)]


def answered(tiny_coco, folder, kind="random"):
    """Answers in the form that evaluate writes, of words that the tiny tokenizer knows."""
    images = sorted((tiny_coco / "train2014").glob("*.jpg"))[:3]
    said = [("yes a dog", "yes"), ("a dog", "no"), ("no", "yes"), ("a cat no yes", "no"), ("Yes", "no")]
    rows = [
        {"question_id": number, "image_id": index, "image": image.name, "text": f"is it a {name}"}
        | {"label": label, "object": name, "prompt": f"is it a {name}", "answer": answer}
        for index, image in enumerate(images)
        for number, (name, (answer, label)) in enumerate(zip(("dog", "cat", "cup", "bird", "fork"), said, strict=True))
    ]
    write_rows(folder / f"{kind}.jsonl", rows)
    return rows


def test_wrong_against_right_by_the_library(flags, polled, tiny_coco, tmp_path, capsys):
    """The second file has the same questions."""
    rows, _ = (answered(tiny_coco, tmp_path, kind) for kind in ("random", "popular"))
    files = [str(tmp_path / f"{kind}.jsonl") for kind in ("random", "popular")]
    attribute.main([*flags, "--answers", *files])
    assert "12 times yes or no in 12 answers" in capsys.readouterr().err
    result, wrong, log_probs = read_attribution(tmp_path / "out")
    assert result["settings"]["labels"] == ["wrong", "right"] and result["n_captions"] == 3
    lvlm, expected, right = hh.load(polled), [], []
    for row in rows:
        said = {"yes a dog": "yes", "no": "no", "a cat no yes": "no", "Yes": "Yes"}.get(row["answer"])
        if said:
            image = tiny_coco / "train2014" / row["image"]
            found = hh.attribute(lvlm, image, row["answer"], words=[said], prompt=row["prompt"])
            expected.append(found.influence[0])
            right.append(said.lower() == row["label"])
    assert wrong.tolist() == [not each for each in right]
    np.testing.assert_allclose(
        np.exp(log_probs["clean"])[:, None, None] - np.exp(log_probs["heads"]), expected, atol=1e-6
    )
    attribute.main([*flags, "--answers", *files, "--match", "object", "--out", str(tmp_path / "matched")])
    matched = read_attribution(tmp_path / "matched")[0]["matched"]
    assert matched == {"objects": ["no", "yes"], "n_hallucinated_words": 6, "n_true_words": 6}


def test_the_answers_of_a_run(polled, tiny_checkpoint, tiny_coco, flags, tmp_path, capsys):
    asked = ["--task", "pope", "--model", polled, "--annotations", tiny_coco / "annotations", "--limit", 3]
    asked += ["--split", "train2014", "--image-folder", tiny_coco / "train2014", "--out", tmp_path / "pope"]
    evaluate.main([str(flag) for flag in (*asked, "--methods", "greedy", "--max-new-tokens", 4)])
    files = sorted((tmp_path / "pope").rglob("answers.jsonl"))
    assert len(files) == 3
    attribute.main([*flags, "--answers", *map(str, files)])
    result, wrong, _ = read_attribution(tmp_path / "out")
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    first: dict = {}
    for row in rows:
        first.setdefault((row["image"], row["text"]), row)
    assert len(first) < len(rows)  # what is there is asked for in each kind
    rows = [*first.values()]
    said = [re.search("yes|no", row["answer"].lower()) for row in rows]
    assert wrong.tolist() == [each[0] != row["label"] for each, row in zip(said, rows, strict=True) if each]
    assert result["n_captions"] == 3
    flags[flags.index("--model") + 1], flags[flags.index("--out") + 1] = str(tiny_checkpoint), str(tmp_path / "other")
    assert "of another model" in error_of(attribute.main, capsys, *flags, "--answers", str(files[0]))
    rows = [row | {"answer": "a dog"} for row in rows]
    write_rows(files[0], rows)
    flags[flags.index("--model") + 1] = str(polled)
    assert "no answer says yes or no" in error_of(attribute.main, capsys, *flags, "--answers", str(files[0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "maybe"}, "row 1: label 'maybe'; expected yes or no"),
        ({"answer": None}, "row 1: no text answer; expected answers.jsonl of evaluate --task pope"),
        ({"image": "../x.jpg"}, "row 1: image '../x.jpg' leaves the image folder"),
        ({"token_ids": "x"}, "row 1: token_ids is 'x'; expected a list of token ids"),
    ],
)
def test_broken_rows_are_one_line(change, message, flags, tiny_coco, tmp_path, capsys):
    rows = answered(tiny_coco, tmp_path)
    write_rows(tmp_path / "random.jsonl", [rows[0] | change])
    error = error_of(attribute.main, capsys, *flags, "--answers", str(tmp_path / "random.jsonl"))
    assert f"--answers {tmp_path / 'random.jsonl'}, {message}" in error


def test_flags_that_do_not_go_together(flags, tiny_coco, tmp_path, capsys):
    answered(tiny_coco, tmp_path)
    file = str(tmp_path / "random.jsonl")
    for more, message in (
        (["--captions", file], "--captions: is instead of --answers"),
        (["--targets", file], "--answers: is instead of --targets"),
        (["--labels", "a", "b"], "--labels: needs --targets"),
    ):
        assert message in error_of(attribute.main, capsys, *flags, "--answers", file, *more)
