"""The script that scores a file of captions, end to end."""

import hashlib
import json

import pytest
from coco_files import write_coco

from llava_hh.scripts.evaluate_chair import main

ROWS = [
    {"question_id": 5, "image_id": 1, "text": "A dog and a cat.", "token_ids": [1, 2, 3], "finish_reason": "eos"},
    {"question_id": 6, "image_id": 2, "text": "Two buses.", "token_ids": [4]},
]


@pytest.fixture
def captions(tmp_path):
    return write_rows(tmp_path / "captions.jsonl", ROWS)


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def error_of(capsys, *argv):
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in argv])
    assert exit_.value.code == 2
    return capsys.readouterr().err


def test_annotations(tmp_path, captions, capsys):
    folder = write_coco(tmp_path / "annotations")
    argv = ["--captions", str(captions), "--annotations", str(folder)]
    main(argv)
    out = tmp_path / "captions_eval_results.json"
    result = json.loads(out.read_text())
    first, second = result["sentences"]
    assert {key: first[key] for key in ROWS[0]} == ROWS[0]
    assert first["caption"] == ROWS[0]["text"]
    assert first["mscoco_gt_words"] == ["dog", "hot dog", "person"]
    assert first["mscoco_hallucinated_words"] == [["cat", "cat"]]
    assert second["mscoco_non_hallucinated_words"] == [["buses", "bus"]]
    overall = result["overall_metrics"]
    assert (overall["CHAIRs"], overall["CHAIRi"], overall["recall"], overall["n"]) == (1 / 2, 1 / 3, 2 / 4, 2)
    run = result["run"]
    assert (run["argv"], run["variant"], run["n_skipped"]) == (argv, "hh", 0)
    assert run["sha256"][str(captions)] == hashlib.sha256(captions.read_bytes()).hexdigest()
    assert len(run["sha256"]) == 5
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:4] == ["CHAIR_s", "%", "CHAIR_i", "%"]
    assert printed[1].split() == ["50.0", "33.3", "50.0", "1.5", "4.5", "2", "hh"]
    assert printed[-1] == str(out)


def test_objects_and_keys_of_ones_own_and_a_rerun_is_the_same(tmp_path):
    path = write_rows(tmp_path / "c.jsonl", [{"id": "12", "answer": "A kite."}, {"id": 13, "answer": "A kite."}])
    objects = write_rows(tmp_path / "o.jsonl", [{"image_id": 12, "objects": ["kite"]}, {"image_id": 13, "objects": []}])
    out = tmp_path / "made" / "result.json"
    argv = f"--captions {path} --objects {objects} --id-key id --text-key answer --out {out} --variant hh".split()
    main(argv)
    first = json.loads(out.read_text())
    main(argv)
    second = json.loads(out.read_text())
    assert [second[key] for key in ("sentences", "overall_metrics")] == list(first.values())[:2]
    assert [entry["image_id"] for entry in first["sentences"]] == [12, 13]
    assert first["overall_metrics"]["CHAIRs"] == 0.5
    assert [file.name for file in out.parent.iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "not JSON"),
        ("3", "expected an object, found a int"),
        ('{"text": "a"}', "no key 'image_id' (--id-key); its keys are text"),
        ('{"image_id": 1, "caption": "a"}', "no key 'text' (--text-key); its keys are caption, image_id"),
        ('{"image_id": "one", "text": "a"}', "'image_id' (--id-key) is 'one'; expected the whole number of an image"),
        ('{"image_id": 1, "text": null}', "'text' (--text-key) is None; expected a string"),
        ('{"image_id": 99, "text": "a"}', "image 99 has no ground truth in "),
    ],
)
def test_bad_row_stops_the_run_or_is_skipped_and_counted(tmp_path, captions, capsys, row, message):
    folder = write_coco(tmp_path / "annotations")
    captions.write_text(captions.read_text() + row + "\n")
    argv = ["--captions", str(captions), "--annotations", str(folder)]
    error = error_of(capsys, *argv)
    assert f"{captions}, row 3: {message}" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "captions_eval_results.json").exists()

    main([*argv, "--skip-bad"])
    printed = capsys.readouterr()
    assert f"skipped: {captions}, row 3: {message}" in printed.err
    assert "1 bad rows skipped" in printed.out
    result = json.loads((tmp_path / "captions_eval_results.json").read_text())
    assert (len(result["sentences"]), result["run"]["n_skipped"], len(result["run"]["skipped"])) == (2, 1, 1)


def test_wrong_flags(tmp_path, captions, capsys):
    objects = write_rows(tmp_path / "o.jsonl", [{"image_id": 1, "objects": ["dog"]}, {"image_id": 2, "objects": []}])
    given = ("--captions", captions, "--objects", objects)
    assert "one of the arguments --annotations --objects is required" in error_of(capsys, "--captions", captions)
    assert "not allowed with argument" in error_of(capsys, *given, "--annotations", tmp_path)
    assert "'lemma' is not known; expected one of: hh" in error_of(capsys, *given, "--variant", "lemma")
    assert "is an input of this run" in error_of(capsys, *given, "--out", captions)
    assert "none.jsonl: no such file" in error_of(capsys, "--captions", tmp_path / "none.jsonl", "--objects", objects)
    assert "none.jsonl: no such file" in error_of(capsys, "--captions", captions, "--objects", tmp_path / "none.jsonl")
    assert "found none" in error_of(capsys, "--captions", captions, "--annotations", tmp_path)
    captions.write_text("\n")
    assert "no caption to score" in error_of(capsys, *given)
    captions.write_text("{\n")
    assert "no caption to score" in error_of(capsys, *given, "--skip-bad")
    with pytest.raises(ValueError, match="row 1: not JSON"):
        main([*map(str, given), "--debug"])


def test_a_failed_run_leaves_the_last_result(tmp_path, captions, capsys):
    objects = write_rows(tmp_path / "o.jsonl", [{"image_id": 1, "objects": []}, {"image_id": 2, "objects": []}])
    main(["--captions", str(captions), "--objects", str(objects)])
    before = (tmp_path / "captions_eval_results.json").read_bytes()
    captions.write_text(captions.read_text() + "{")
    error_of(capsys, "--captions", captions, "--objects", objects)
    assert (tmp_path / "captions_eval_results.json").read_bytes() == before
