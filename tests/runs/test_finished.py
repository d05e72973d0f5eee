"""A result is shown without a model only where the same inputs made it, by content."""

import json
import os
from pathlib import Path

import pytest

from llava_hh.runs.finished import is_finished, mark_finished, request_of
from llava_hh.scripts import evaluate, figure


@pytest.fixture
def result(tmp_path) -> Path:
    (tmp_path / "result.json").write_text(json.dumps({"run": {}}))
    (tmp_path / "run.json").write_text(json.dumps({"settings": {"n": 1}, "seconds": 2.0}))
    (tmp_path / "blocks").mkdir()
    (tmp_path / "blocks" / "00000.json").write_text("{}")
    return tmp_path / "result.json"


def test_what_changes_a_request_and_what_does_not(tmp_path, monkeypatch):
    (tmp_path / "images" / "deep").mkdir(parents=True)
    (tmp_path / "images" / "deep" / "a=b, c+d.jpg").write_text("1")
    (tmp_path / "file=1.json").write_text("{}")
    flags = {"image_folder": tmp_path / "images", "limit": 3, "out": tmp_path / "out", "debug": False, "profile": "x"}
    flags |= {"heads": tmp_path / "file=1.json", "prompt": "long " * 200}
    first = request_of("caption", flags, ["adhh:top_k=2"])
    assert first == request_of("caption", {**flags, "debug": True, "profile": "y"}, ["adhh:top_k=2"])
    others = [request_of("figure", flags, ["adhh:top_k=2"]), request_of("caption", flags, ["adhh:top_k=1"])]
    others += [request_of("caption", {**flags, name: value}, ["adhh:top_k=2"]) for name, value in (("limit", 4),)]
    others.append(request_of("caption", {**flags, "out": tmp_path / "elsewhere"}, ["adhh:top_k=2"]))
    (tmp_path / "images" / "deep" / "a=b, c+d.jpg").write_text("12")
    others.append(request_of("caption", flags, ["adhh:top_k=2"]))
    (tmp_path / "file=1.json").write_text("[]")
    others.append(request_of("caption", flags, ["adhh:top_k=2"]))
    monkeypatch.setenv("DTYPE", "bfloat16")
    others.append(request_of("caption", flags, ["adhh:top_k=2"]))
    assert len({first, *others}) == 1 + len(others)


def test_scores_count_with_the_captions_beside_them(tmp_path):
    """Captions that were made anew after scoring make another request, whatever the verb."""
    (tmp_path / "captions.jsonl").write_text("{}")
    scores = tmp_path / "captions_eval_results.json"
    scores.write_text(
        json.dumps({"sentences": [], "run": {"sha256": {"elsewhere/captions.jsonl": "0", "gone.json": "1"}}})
    )
    first = request_of("attribute", {"captions": scores})
    (tmp_path / "other.jsonl").write_text("{}")
    assert request_of("attribute", {"captions": scores}) == first
    (tmp_path / "captions.jsonl").write_text("[]")
    assert request_of("attribute", {"captions": scores}) != first


@pytest.mark.parametrize("change", ["result", "block", "new block", "gone", "no record", "record", "mark", "request"])
def test_what_was_made_has_to_be_there_as_it_was(change, result):
    record = result.with_name("run.json")
    mark_finished(result, "asked", [record, result.parent / "blocks"])
    record.write_text(json.dumps({"settings": {"n": 1}, "seconds": 4.0}))
    assert is_finished(result, "asked")
    block, mark = result.parent / "blocks" / "00000.json", result.with_name("result.finished.json")
    changes = {
        "result": lambda: result.write_text('{"run": {"a": 1}}'),
        "block": lambda: block.write_text("{} "),
        "new block": lambda: block.with_name("00001.json").write_text("{}"),
        "gone": block.unlink,
        "no record": record.unlink,
        "record": lambda: record.write_text(json.dumps({"settings": {"n": 2}, "seconds": 4.0})),
        "mark": lambda: mark.write_text(mark.read_text()[:-9]),
        "request": lambda: None,
    }
    changes[change]()
    assert not is_finished(result, "another" if change == "request" else "asked")


def evaluated(folder: Path, checkpoint: Path, coco: Path, *more: object) -> None:
    flags = ["--model", checkpoint, "--image-folder", coco / "val2014", "--annotations", coco / "annotations"]
    flags += ["--limit", 3, "--max-new-tokens", 4, "--heads", folder / "heads.json", "--out", folder / "out", *more]
    evaluate.main([str(flag) for flag in flags])


def test_a_profile_that_says_other_numbers_is_another_request(tiny_checkpoint, tiny_coco, tmp_path, capsys):
    (tmp_path / "heads.json").write_text(json.dumps({"hal_heads": [[3, 1], [0, 2]]}))
    for numbers in ("top_k=2\nthreshold=0.05\n", "top_k=1\nthreshold=0.9\n"):
        (tmp_path / "my.sh").write_text(f"inherit=mini\n{numbers}")
        evaluated(tmp_path, tiny_checkpoint, tiny_coco, "--profile", tmp_path / "my.sh", "--methods", "adhh")
        assert "finished before" not in capsys.readouterr().err
        evaluated(tmp_path, tiny_checkpoint, tiny_coco, "--profile", tmp_path / "my.sh", "--methods", "adhh")
        assert "finished before" in capsys.readouterr().err
    assert sorted(name.split("-")[1] for name in os.listdir(tmp_path / "out") if name.startswith("adhh")) == [
        "top_k=1",
        "top_k=2",
    ]


def test_two_comparisons_in_one_folder_stay_finished(tiny_checkpoint, tiny_coco, tmp_path, capsys):
    (tmp_path / "heads.json").write_text(json.dumps({"hal_heads": [[3, 1], [0, 2]]}))
    for _ in range(2):
        for name in ("one", "two"):
            methods = ["scale:top_k=2,alpha=0.5"] if name == "one" else ["scale:top_k=1,alpha=0.5"]
            summary = ["--summary", tmp_path / f"{name}.json"]
            evaluated(tmp_path, tiny_checkpoint, tiny_coco, *summary, "--methods", *methods)
    assert capsys.readouterr().err.count("finished before") == 2
    drawn = ["factors", "--summary", str(tmp_path / "one.json"), "--span", "after_image", "--out", str(tmp_path / "f")]
    figure.main(drawn)
    drawing = tmp_path / "f" / "attention_reweight_after_image.json"
    before = json.loads(drawing.read_text())
    (tmp_path / "one.json").write_text((tmp_path / "two.json").read_text())
    figure.main(drawn)
    after = json.loads(drawing.read_text())
    assert (before["settings"]["top_k"], after["settings"]["top_k"]) == (2, 1)


def test_rows_that_are_gone_are_made_again(tiny_checkpoint, tiny_coco, tmp_path, capsys):
    (tmp_path / "heads.json").write_text(json.dumps({"hal_heads": [[3, 1], [0, 2]]}))
    evaluated(tmp_path, tiny_checkpoint, tiny_coco, "--methods", "removal:top_k=1")
    kept = (tmp_path / "out" / "greedy" / "captions.jsonl").read_bytes()
    (tmp_path / "out" / "greedy" / "captions.jsonl").unlink()
    evaluated(tmp_path, tiny_checkpoint, tiny_coco, "--methods", "removal:top_k=1")
    assert "finished before" not in capsys.readouterr().err
    assert (tmp_path / "out" / "greedy" / "captions.jsonl").read_bytes() == kept
