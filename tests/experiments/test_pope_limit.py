"""The task pope asks what its flags say: questions of the first images alone, and no data set but COCO."""

import json

import pytest

from llava_hh.scripts import evaluate
from tests.support.tiny_checkpoint import save_polled_checkpoint


@pytest.fixture(scope="module")
def polled(tiny_checkpoint, tmp_path_factory):
    """The tiny checkpoint with words for yes and no."""
    folder = tmp_path_factory.mktemp("polled") / "model"
    save_polled_checkpoint(tiny_checkpoint, folder)
    return folder


@pytest.fixture
def questions(tiny_coco, tmp_path):
    """Official files of 4 images, 3 questions each; the kinds differ in the order of their images."""
    images = sorted(path.name for path in (tiny_coco / "val2014").glob("*.jpg"))[:4]
    for shift, kind in enumerate(("random", "popular", "adversarial")):
        order = images[shift:] + images[:shift]
        rows = [
            {"question_id": 3 * place + number, "image": image, "text": f"Is there a {name}?", "label": "yes"}
            for place, image in enumerate(order)
            for number, name in enumerate(("dog", "cup", "bus"), start=1)
        ]
        rows = rows[::3] + rows[1::3] + rows[2::3] if kind == "popular" else rows  # an image's are not side by side
        (tmp_path / f"coco_pope_{kind}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path, images


def run(checkpoint, coco, folder, out, *more):
    flags = ["--model", checkpoint, "--image-folder", coco / "val2014", "--annotations", coco / "annotations"]
    flags += ["--task", "pope", "--questions", folder, "--batch-size", 4, "--max-new-tokens", 2, "--out", out]
    evaluate.main([str(flag) for flag in [*flags, *more]])
    return json.loads((out / "pope.json").read_text())


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_limit_counts_images(limit, questions, polled, tiny_coco, tmp_path):
    folder, images = questions
    content = run(polled, tiny_coco, folder, tmp_path / "out", "--limit", limit)
    n_images = min(limit, 4)
    for shift, kind in enumerate(("random", "popular", "adversarial")):
        rows = (tmp_path / "out" / "greedy" / kind / "answers.jsonl").read_text().splitlines()
        asked = [json.loads(row)["image"] for row in rows]
        assert set(asked) == set((images[shift:] + images[:shift])[:n_images])
        assert len(asked) == 3 * n_images == content["methods"]["greedy"]["strict"][kind]["n"]
        assert content["asked"][kind] == {"images": n_images, "questions": 3 * n_images}
    assert content["settings"]["limit"] == limit


def test_built_questions_are_counted_too(polled, tiny_coco, tmp_path):
    flags = ["--model", polled, "--image-folder", tiny_coco / "val2014", "--out", tmp_path]
    flags += ["--annotations", tiny_coco / "annotations", "--task", "pope", "--limit", 2, "--max-new-tokens", 2]
    evaluate.main([str(flag) for flag in flags])
    content = json.loads((tmp_path / "pope.json").read_text())
    assert content["asked"]["random"] == {"images": 2, "questions": 12}


def test_other_data_sets_are_refused(polled, tiny_coco, tmp_path, questions, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(polled, tiny_coco, questions[0], tmp_path / "out", "--dataset", "nocaps")
    error = capsys.readouterr().err
    assert (
        stopped.value.code == 2
        and error.startswith("error: --task pope asks about COCO's images; leave --dataset")
        and error.count("\n") == 1
    )
    assert not (tmp_path / "out").exists()


def test_images_that_no_instances_file_lists_stop_it(polled, tiny_coco, tmp_path, capsys):
    folder = tmp_path / "annotations"
    folder.mkdir()
    for kind in ("captions", "instances"):
        content = json.loads((tiny_coco / "annotations" / f"{kind}_val2014.json").read_text())
        if kind == "instances":
            del content["images"][0]
        (folder / f"{kind}_val2014.json").write_text(json.dumps(content))
    flags = ["--model", polled, "--image-folder", tiny_coco / "val2014", "--annotations", folder]
    flags += ["--task", "pope", "--out", tmp_path / "out"]
    with pytest.raises(SystemExit):
        evaluate.main([str(flag) for flag in flags])
    assert "has no annotation; looked in" in capsys.readouterr().err
