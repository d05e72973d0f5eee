"""Files that the paper's code wrote: captions without image_id, scored captions without token ids."""

import json
from pathlib import Path

import numpy as np
import pytest

from llava_hh.scripts import attribute, caption, figure
from tests.support.main_job import attribute_flags, caption_flags, read_attribution
from tests.support.verbs import score_chair

THEIRS = ("image_id", "caption", "words", "metrics", "hallucination_idxs", "non_hallucination_idxs")
THEIRS += ("mscoco_hallucinated_words", "mscoco_gt_words", "mscoco_generated_words")


@pytest.fixture(scope="module")
def ours(tiny_checkpoint, tiny_coco, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ours")
    caption.main(caption_flags(tiny_checkpoint, tiny_coco, folder))
    score_chair([f"--captions={folder / 'captions.jsonl'}", f"--annotations={tiny_coco / 'annotations'}"])
    return folder / "captions_eval_results.json"


@pytest.fixture(scope="module")
def released(ours, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("released") / "captions_eval_results.json"
    content = json.loads(ours.read_text())
    sentences = [{key: entry[key] for key in THEIRS if key in entry} for entry in content["sentences"]]
    path.write_text(json.dumps({"overall_metrics": {"CHAIRs": 0.5}, "sentences": sentences}))
    return path


@pytest.mark.parametrize("id_key", ["image_id", "question_id"])
def test_attribution_of_a_released_result_is_that_of_ours(id_key, ours, released, tiny_checkpoint, tiny_coco, tmp_path):
    content = json.loads(released.read_text())
    for entry in content["sentences"]:
        entry[id_key] = entry.pop("image_id")
    released = tmp_path / "captions_eval_results.json"
    released.write_text(json.dumps(content))
    found = []
    for name, path in (("ours", ours), ("released", released)):
        attribute.main(attribute_flags(tiny_checkpoint, tiny_coco, path, tmp_path / name))
        found.append(read_attribution(tmp_path / name))
    (one, hallucinated, arrays), (other, *_, same) = found
    assert hallucinated.any() and one["hal_heads"] == other["hal_heads"]
    for name, array in arrays.items():
        assert np.array_equal(array, same[name]), name


def test_figures_read_a_released_result(released, tiny_checkpoint, tiny_coco, tmp_path):
    heads = tmp_path / "heads.json"
    heads.write_text('{"hal_heads": [[1, 2]], "non_hal_heads": [[0, 1]]}')
    (tmp_path / "step-1").symlink_to(tiny_checkpoint)
    flags = ["--reference", tiny_checkpoint, "--checkpoints", tmp_path / "step-1", "--top-k", 1, "--heads", heads]
    flags += ["--captions", released, "--image-folder", tiny_coco / "train2014", "--limit", 2]
    figure.main(["divergence", *map(str, flags), "--out", str(tmp_path / "out")])
    assert json.loads((tmp_path / "out" / "js_divergence.json").read_text())["n"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"mscoco_hallucinated_words": [["zebra", "zebra"]]},
            "which CHAIR does not find there",
        ),
        ({"caption": "a  dog , ☃ and a cat"}, "comes back from this model's tokens as "),
        ({"image_id": 999}, "neither COCO_train2014_000000000999.jpg nor 000000000999.jpg there"),
    ],
)
def test_what_does_not_fit_is_refused(change, message, released, tiny_checkpoint, tiny_coco, tmp_path, capsys):
    content = json.loads(released.read_text())
    entry = next(entry for entry in content["sentences"] if entry["metrics"]["CHAIRs"])
    if "caption" in change:
        change = change | {"mscoco_hallucinated_words": [["dog", "dog"], ["cat", "cat"]], "mscoco_gt_words": []}
    entry |= change
    path = tmp_path / "captions_eval_results.json"
    path.write_text(json.dumps(content))
    with pytest.raises(SystemExit) as stopped:
        attribute.main(attribute_flags(tiny_checkpoint, tiny_coco, path, tmp_path / "out"))
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error, error


def test_ids_are_found_under_the_keys_of_the_paper(ours, tiny_coco, tmp_path, capsys):
    expected = json.loads(ours.read_text())
    rows = [json.loads(line) for line in (ours.parent / "captions.jsonl").read_text().splitlines()]
    named = {"question_id": lambda row: row["image_id"], "image": lambda row: row["image"]}
    for key, value in named.items():
        path = tmp_path / key / "captions.jsonl"
        path.parent.mkdir()
        path.write_text("\n".join(json.dumps({key: value(row), "text": row["text"]}) for row in rows))
        score_chair([f"--captions={path}", f"--annotations={tiny_coco / 'annotations'}"])
        found = json.loads(path.with_name("captions_eval_results.json").read_text())
        assert [entry["image_id"] for entry in found["sentences"]] == [row["image_id"] for row in rows]
        assert found["overall_metrics"]["CHAIRi"] == expected["overall_metrics"]["CHAIRi"]
    path.write_text(json.dumps({"question_id": 1, "image": rows[1]["image"], "text": "a dog"}))
    with pytest.raises(SystemExit):
        score_chair([f"--captions={path}", f"--annotations={tiny_coco / 'annotations'}"])
    assert "are not one image; say by --id-key which counts" in capsys.readouterr().err
