"""The script that scores a file of captions, end to end."""

import hashlib
import json

import pytest

from llava_hh.files.locks import hold
from tests.support.coco_files import write_coco
from tests.support.verbs import error_of, write_rows
from tests.support.verbs import score_chair as main

ROWS = [
    {"question_id": 5, "image_id": 1, "text": "A dog and a cat.", "token_ids": [1, 2, 3], "finish_reason": "eos"},
    {"question_id": 6, "image_id": 2, "text": "Two buses.", "token_ids": [4]},
]


@pytest.fixture
def captions(tmp_path):
    return write_rows(tmp_path / "captions.jsonl", ROWS)


def test_another_command_in_the_folder_is_waited_for(tmp_path, captions, capsys):
    folder = write_coco(tmp_path / "annotations")
    with hold(tmp_path):
        error = error_of(main, capsys, "--captions", captions, "--annotations", folder)
    assert error.startswith(f"error: {tmp_path}: in use by process ")
    assert not (tmp_path / "captions_eval_results.json").exists()
    main(["--captions", str(captions), "--annotations", str(folder)])


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
    assert (run["argv"], run["variant"], run["n_skipped"]) == (["chair", *argv], "hh", 0)
    assert run["sha256"][str(captions)] == hashlib.sha256(captions.read_bytes()).hexdigest()
    assert len(run["sha256"]) == 5
    printed = capsys.readouterr().out.splitlines()
    heads, _, cells = ([cell.strip() for cell in line.split("|")[1:-1]] for line in printed[:3])
    assert heads[:2] == ["CHAIR_s %", "CHAIR_i %"] and heads[-2:] == ["captions", "variant"]
    values = ["50.0", "33.3", "66.7", "50.0", "57.1", "1.5", "1.5", "0.0", "4.5", "2", "hh"]
    assert [cell.split(" (")[0] for cell in cells] == values
    assert "Bleu" not in overall  # image 2 has no reference caption
    assert printed[-1] == str(out)


def test_objects_and_keys_of_ones_own_and_a_rerun_is_the_same(tmp_path):
    path = write_rows(tmp_path / "c.jsonl", [{"id": "12", "answer": "A kite."}, {"id": 13, "answer": "A kite."}])
    objects = write_rows(tmp_path / "o.jsonl", [{"image_id": 12, "objects": ["kite"]}, {"image_id": 13, "objects": []}])
    out = tmp_path / "made" / "result.json"
    argv = f"--captions {path} --objects {objects} --id-key id --text-key answer --out {out} --variant hh".split()
    main(argv)
    first, made = json.loads(out.read_text()), out.stat()
    main(argv)
    assert out.stat().st_ino == made.st_ino  # what is made of the file stays finished
    out.write_text(out.read_text().replace("kite", "boat"))
    main(argv)
    assert json.loads(out.read_text())["sentences"] == first["sentences"]
    assert [entry["image_id"] for entry in first["sentences"]] == [12, 13]
    assert first["overall_metrics"]["CHAIRs"] == 0.5
    assert [file.name for file in out.parent.iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "not JSON"),
        ("3", "expected an object, found a int"),
        ('{"text": "a"}', "no key 'image_id' (--id-key); its keys are text"),
        ('{"image_id": 1, "captions": "a"}', "no key 'text' (--text-key); its keys are captions, image_id"),
        ('{"image_id": "one", "text": "a"}', "'image_id' (--id-key) is 'one'; expected the whole number of an image"),
        ('{"image_id": 1, "text": null}', "'text' (--text-key) is None; expected a string"),
        ('{"image_id": 99, "text": "a"}', "image 99 has no ground truth in "),
    ],
)
def test_bad_row_stops_the_run_or_is_skipped_and_counted(tmp_path, captions, capsys, row, message):
    folder = write_coco(tmp_path / "annotations")
    captions.write_text(captions.read_text() + row + "\n")
    argv = ["--captions", str(captions), "--annotations", str(folder)]
    error = error_of(main, capsys, *argv)
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
    needed = "one of the arguments --annotations --objects --truth is required"
    assert needed in error_of(main, capsys, "--captions", captions)
    assert "not allowed with argument" in error_of(main, capsys, *given, "--annotations", tmp_path)
    expected = "'chair' is not known; expected one of: hh, clean, original, lemma"
    assert expected in error_of(main, capsys, *given, "--variant", "chair")
    assert "is an input of this run" in error_of(main, capsys, *given, "--out", captions)
    assert "none.jsonl: no such file" in error_of(
        main, capsys, "--captions", tmp_path / "none.jsonl", "--objects", objects
    )
    assert "none.jsonl: no such file" in error_of(
        main, capsys, "--captions", captions, "--objects", tmp_path / "none.jsonl"
    )
    assert "found none" in error_of(main, capsys, "--captions", captions, "--annotations", tmp_path)
    captions.write_text("\n")
    assert "no caption to score" in error_of(main, capsys, *given)
    captions.write_text("{\n")
    assert "no caption to score" in error_of(main, capsys, *given, "--skip-bad")
    with pytest.raises(ValueError, match="row 1: not JSON"):
        main([*map(str, given), "--debug"])


def test_a_failed_run_leaves_the_last_result(tmp_path, captions, capsys):
    objects = write_rows(tmp_path / "o.jsonl", [{"image_id": 1, "objects": []}, {"image_id": 2, "objects": []}])
    main(["--captions", str(captions), "--objects", str(objects)])
    before = (tmp_path / "captions_eval_results.json").read_bytes()
    captions.write_text(captions.read_text() + "{")
    error_of(main, capsys, "--captions", captions, "--objects", objects)
    assert (tmp_path / "captions_eval_results.json").read_bytes() == before


def test_references_give_bleu_and_cider_and_the_truth_is_read_once(tmp_path, capsys, monkeypatch):
    folder = write_coco(tmp_path / "annotations")
    captions = write_rows(tmp_path / "c.jsonl", [{"image_id": 1, "text": "A man and a dog."}])
    argv = ["--captions", str(captions), "--annotations", str(folder)]
    main(argv)
    overall = json.loads((tmp_path / "captions_eval_results.json").read_text())["overall_metrics"]
    assert overall["Bleu"] == pytest.approx([1, 1, 1, 1])
    assert overall["CIDEr"] == 0  # of one image: every word is in every document
    assert capsys.readouterr().out.splitlines()[0].endswith("| BLEU-4 % | CIDEr |")

    def refuse(*_):
        raise AssertionError("COCO's files were parsed again")

    monkeypatch.setattr("llava_hh.data.coco._add_annotations", refuse)
    main(argv)


def test_incomplete_sentences_are_dropped_on_demand(tmp_path):
    objects = write_rows(tmp_path / "o.jsonl", [{"image_id": 1, "objects": ["dog"]}])
    captions = write_rows(tmp_path / "c.jsonl", [{"image_id": 1, "text": "A dog. Beside it a cat and"}])
    argv = ["--captions", str(captions), "--objects", str(objects)]
    overall = {}
    for flags in ([], ["--drop-incomplete"]):
        main([*argv, *flags])
        result = json.loads((tmp_path / "captions_eval_results.json").read_text())
        overall[bool(flags)] = result["overall_metrics"]
    assert [overall[cut]["CHAIRs"] for cut in (False, True)] == [1, 0]
    assert [overall[cut]["drop_incomplete"] for cut in (False, True)] == [False, True]
    assert (result["sentences"][0]["caption"], result["sentences"][0]["text"]) == (
        "A dog.",
        "A dog. Beside it a cat and",
    )


def test_original_and_clean_through_the_script(tmp_path):
    objects = write_rows(tmp_path / "o.jsonl", [{"image_id": 1, "objects": []}])
    captions = write_rows(tmp_path / "c.jsonl", [{"image_id": 1, "text": "A bus and two dogs."}])
    words = {}
    for variant in ("hh", "clean", "original"):
        main(["--captions", str(captions), "--objects", str(objects), "--variant", variant])
        result = json.loads((tmp_path / "captions_eval_results.json").read_text())
        assert result["overall_metrics"]["variant"] == variant
        words[variant] = result["sentences"][0]["mscoco_generated_words"]
    assert words == {"hh": ["dogs"], "clean": ["bus", "dogs"], "original": ["dog"]}


@pytest.mark.parametrize(
    ("dataset", "named", "text", "unknown"),
    [
        ("coco", ["purse", " Laptop computer ", "people"], "A handbag, a laptop and a man.", "unicorn"),
        ("nocaps", ["drink", " HAMMER"], "A spoon beside drinks.", "Person of note"),
    ],
)
def test_objects_of_ones_own_are_categories_or_their_synonyms(dataset, named, text, unknown, tmp_path, capsys):
    """All of the caption is there by another name; a name of nothing is refused with its row, or skipped."""
    ids = [{"coco": 1, "nocaps": "003232584a062b07"}[dataset], {"coco": 2, "nocaps": "00a1b2c3d4e5f607"}[dataset]]
    captions = write_rows(tmp_path / "c.jsonl", [{"image_id": own, "text": text} for own in ids])
    objects = write_rows(tmp_path / "o.jsonl", [{"image_id": own, "objects": named} for own in ids])
    flags = ["--dataset", dataset, "--captions", str(captions), "--objects", str(objects)]
    main(flags)
    result = json.loads((tmp_path / "captions_eval_results.json").read_text())
    assert (result["overall_metrics"]["CHAIRi"], result["overall_metrics"]["recall"]) == (0, 1)
    write_rows(objects, [{"image_id": ids[0], "objects": named}, {"image_id": ids[1], "objects": [*named, unknown]}])
    message = f"{objects}, row 2: object '{unknown}' is no category, and no synonym of one"
    assert message in error_of(main, capsys, *flags)
    main([*flags, "--skip-bad"])
    assert f"skipped: {message}" in capsys.readouterr().err
    result = json.loads((tmp_path / "captions_eval_results.json").read_text())
    assert [entry["image_id"] for entry in result["sentences"]] == ids[:1]


def test_reference_captions_without_a_word_give_no_bleu(tmp_path):
    folder = write_coco(tmp_path / "annotations")
    path = folder / "captions_train2014.json"
    path.write_text(path.read_text().replace("A man and a dog.", " .").replace("A hot dog stand.", ""))
    captions = write_rows(tmp_path / "c.jsonl", [{"image_id": 1, "text": "A dog."}])
    main(["--captions", str(captions), "--annotations", str(folder)])
    overall = json.loads((tmp_path / "captions_eval_results.json").read_text())["overall_metrics"]
    assert overall["CHAIRi"] == 0 and "Bleu" not in overall


def test_scores_of_a_comparisons_run_are_not_overwritten(tmp_path, captions, capsys):
    objects = write_rows(tmp_path / "o.jsonl", [{"image_id": 1, "objects": ["dog"]}, {"image_id": 2, "objects": []}])
    own = captions.with_name("captions.jsonl")
    captions.rename(own)
    result = tmp_path / "captions_eval_results.json"
    result.write_text(json.dumps({"kind": "greedy", "label": "greedy", "sentences": [], "run": {}}))
    error = error_of(main, capsys, "--captions", own, "--objects", objects)
    assert "has the scores of a run of evaluate" in error and json.loads(result.read_text())["kind"] == "greedy"
    main(["--captions", str(own), "--objects", str(objects), "--out", str(tmp_path / "again.json")])
