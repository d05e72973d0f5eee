"""nocaps through the script that scores captions and through the harness."""

import json
import shutil
from pathlib import Path

import pytest

from llava_hh.scripts import caption, evaluate
from tests.support.nocaps_files import CANS, LABEL_FILE, SHOES, STREET, write_collected, write_official
from tests.support.verbs import score_chair, write_rows

ROWS = [
    {"question_id": 1, "image": f"{CANS}.jpg", "image_id": CANS, "text": "Two cans, a cup and a dog on a table."},
    {"question_id": 2, "image": f"{STREET}.jpg", "image_id": STREET, "text": "A man beside cars."},
]


@pytest.fixture(params=[write_official, write_collected])
def annotations(request, tmp_path) -> Path:
    return request.param(tmp_path / "annotations")


@pytest.mark.parametrize("id_key", ["image_id", "image"])
def test_captions_are_scored(annotations, id_key, tmp_path, capsys):
    captions = write_rows(tmp_path / "captions.jsonl", ROWS)
    argv = ["--dataset", "nocaps", "--captions", str(captions), "--annotations", str(annotations), "--id-key", id_key]
    score_chair(argv)
    result = json.loads((tmp_path / "captions_eval_results.json").read_text())
    first, second = result["sentences"]
    assert (first["image_id"], first["question_id"]) == (CANS, 1)
    assert first["mscoco_gt_words"] == ["drink", "furniture", "tool"]
    assert first["mscoco_hallucinated_words"] == [["dog", "animal"]]
    assert first["mscoco_non_hallucinated_words"] == [["table", "furniture"]]
    assert second["metrics"]["CHAIRs"] == 0
    overall = result["overall_metrics"]
    assert (overall["CHAIRs"], overall["CHAIRi"], overall["recall"]) == (1 / 2, 1 / 4, 3 / 5)
    assert overall["variant"] == result["run"]["variant"] == "nocaps"
    assert 0 <= overall["Bleu"][3] <= 1
    assert len(result["run"]["sha256"]) == 1 + len(list(annotations.iterdir()))
    assert capsys.readouterr().out.splitlines()[2].split(" | ")[-3] == "nocaps"


def refused(main, capsys, *argv) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in argv])
    assert stopped.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_wrong_flags_and_rows(annotations, tmp_path, capsys):
    captions = write_rows(tmp_path / "captions.jsonl", ROWS)
    given = ["--dataset", "nocaps", "--captions", captions]
    error = refused(score_chair, capsys, *given, "--objects", captions)
    assert f"{captions}, row 1: expected `image_id` and `objects`, a list of names; no `objects`" in error
    given += ["--annotations", annotations]
    assert "--variant clean: nocaps-CHAIR has only" in refused(score_chair, capsys, *given, "--variant", "clean")
    error = refused(score_chair, capsys, *given, "--id-key", "question_id")
    assert f"{captions}, row 1: 'question_id' (--id-key) is 1; expected the Open Images id of an image" in error
    write_rows(captions, [*ROWS, {**ROWS[0], "image_id": "f" * 16}])
    assert f"row 3: image {'f' * 16} has no ground truth" in refused(score_chair, capsys, *given)
    score_chair([*map(str, given), "--skip-bad"])
    assert "1 bad rows skipped" in capsys.readouterr().out


@pytest.fixture
def flags(tiny_checkpoint, tiny_coco, annotations, tmp_path) -> list[str]:
    """Flags of a script that captions; the images are COCO's, under other names."""
    images = tmp_path / "images"
    images.mkdir()
    for name, image in zip((CANS, STREET, SHOES), sorted((tiny_coco / "val2014").iterdir()), strict=False):
        shutil.copy(image, images / f"{name}.jpg")
    flags = ["--dataset", "nocaps", "--model", tiny_checkpoint, "--image-folder", images, "--annotations", annotations]
    flags += ["--split", "out-domain", "--batch-size", 2, "--max-new-tokens", 8]
    return [str(flag) for flag in flags]


def test_the_harness(flags, annotations, tmp_path, capsys):
    out = tmp_path / "out"
    flags = [*flags, "--methods", "dola_repo", "vcd_paper", "--limit", "2", "--out", str(out)]
    evaluate.main(flags)
    table = capsys.readouterr().out
    assert "nocaps, out-domain: CHAIR over 90 coarse classes, not comparable with COCO's. In brackets" in table
    result = json.loads((out / "greedy" / "captions_eval_results.json").read_text())
    assert result["overall_metrics"]["variant"] == "nocaps"
    assert (result["run"]["draw"]["dataset"], result["run"]["draw"]["split"]) == ("nocaps", "out-domain")
    captions = (out / "greedy" / "captions.jsonl").read_bytes()
    rows = [json.loads(line) for line in captions.splitlines()]
    numbers = {row["image_id"]: row["question_id"] for row in rows}
    official = {CANS: 1, STREET: 2, SHOES: 3}
    assert numbers == {name: official[name] if (annotations / LABEL_FILE).exists() else name for name in numbers}
    assert [row["image"] for row in rows] == [f"{name}.jpg" for name in numbers]

    again = ["--captions", out / "greedy" / "captions.jsonl", "--annotations", annotations, "--out", tmp_path / "own"]
    score_chair(["--dataset", "nocaps", *map(str, again)])
    own = json.loads((tmp_path / "own").read_text())
    assert own["overall_metrics"]["CHAIRi"] == result["overall_metrics"]["CHAIRi"]
    assert [entry["mentions"] for entry in own["sentences"]] == [entry["mentions"] for entry in result["sentences"]]

    evaluate.main(flags)
    assert (out / "greedy" / "captions.jsonl").read_bytes() == captions
    error = refused(evaluate.main, capsys, *flags, "--split", "val2014")
    assert "'val2014' is no domain of nocaps" in error


def test_captions_without_ground_truth_need_only_the_list(flags, annotations, tmp_path):
    for path in annotations.glob("*.csv"):
        path.unlink()
    caption.main([*flags, "--out", str(tmp_path / "out")])
    rows = (tmp_path / "out" / "captions.jsonl").read_text().splitlines()
    assert [json.loads(row)["image_id"] for row in rows] == [CANS, STREET, SHOES]
