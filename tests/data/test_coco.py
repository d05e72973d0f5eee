"""COCO's files: image lists, the seeded sample, annotations; on files of two images."""

import json
import random

import pytest

from llava_hh.data import coco
from llava_hh.data.coco import annotation_files, load_annotations, load_image_list, load_objects
from llava_hh.data.sample import sample_images
from llava_hh.metrics.chair.chair import objects_of
from tests.support.coco_files import write_coco


@pytest.fixture
def coco_folder(tmp_path):
    return write_coco(tmp_path / "annotations")


def test_image_list_is_in_file_order(coco_folder):
    assert load_image_list(coco_folder / "captions_train2014.json") == [
        {"image_id": 7, "file_name": "COCO_train2014_000000000007.jpg"},
        {"image_id": 1, "file_name": "COCO_train2014_000000000001.jpg"},
    ]


@pytest.mark.parametrize("content", ["[]", "{}", '{"images": [{"id": 1}]}', "not json", '{"images": 3}'])
def test_image_list_of_another_form(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=r"a\.json(:|, row 1 of `images`:) .*`id` and `file_name`"):
        load_image_list(tmp_path / "a.json")


def test_image_listed_twice(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"images": [{"id": 4, "file_name": "x"}] * 2}))
    with pytest.raises(ValueError, match="image 4 is listed twice"):
        load_image_list(tmp_path / "a.json")


def test_sample_is_the_papers():
    images = [{"image_id": 3 * place, "file_name": str(place)} for place in range(50)]
    random.seed(42)
    ids = random.sample([image["image_id"] for image in images], 10)
    assert [image["image_id"] for image in sample_images(images, 10)] == ids
    assert sample_images(images, 10, seed=1) != sample_images(images, 10)
    assert sample_images(images, None) == sample_images(images, 51) == images
    assert sorted(image["image_id"] for image in sample_images(images, 50)) == [image["image_id"] for image in images]
    with pytest.raises(ValueError, match="-1"):
        sample_images(images, -1)


def test_annotations_are_restricted_to_the_images(coco_folder, capsys):
    found = load_annotations(coco_folder, [2, 1])
    assert list(found) == [2, 1]
    assert found[1].categories == {"dog"}
    assert found[1].captions == ["A man and a dog.", "A hot dog stand."]
    assert capsys.readouterr().out == ""


def test_splits_choose_the_files(coco_folder):
    names = [path.name for path in annotation_files(coco_folder)]
    assert names == [f"{kind}_{split}.json" for split in ("train2014", "val2014") for kind in ("captions", "instances")]
    with pytest.raises(ValueError, match=r"image 2 has no annotation; looked in captions_train2014\.json"):
        load_annotations(coco_folder, [1, 2], splits=["train2014"])
    assert list(load_annotations(coco_folder, [1, 2], splits=["train2014"], allow_missing=True)) == [1]


def test_missing_files(coco_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        annotation_files(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"expected captions_\*\.json .* found none"):
        annotation_files(tmp_path / "empty")
    (coco_folder / "instances_val2014.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"instances_val2014\.json: no such file"):
        annotation_files(coco_folder)


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", "nonsense", '{"annotations": [{"image_id": 1, "capt', '{"annotations": [{}]}', '{"annotations": 3}'],
)
def test_a_file_of_another_form_is_named(coco_folder, content):
    (coco_folder / "captions_val2014.json").write_text(content)
    with pytest.raises(ValueError, match=r"captions_val2014\.json: expected COCO's format"):
        load_annotations(coco_folder, [1])


def test_a_caption_file_with_categories_is_read(coco_folder):
    path = coco_folder / "captions_train2014.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "categories": []}))
    assert len(load_annotations(coco_folder, [1])[1].captions) == 2


def test_category_that_is_not_cocos(coco_folder):
    path = coco_folder / "instances_train2014.json"
    path.write_text(path.read_text().replace('"dog"', '"unicorn"'))
    with pytest.raises(ValueError, match="image 1 has an instance of 'unicorn'; expected one of the 80"):
        objects_of(load_annotations(coco_folder, [1]))


def test_objects_file(tmp_path):
    path = tmp_path / "objects.jsonl"
    path.write_text('{"image_id": 1, "objects": ["dog", "cat", "dog"]}\n\n{"image_id": 2, "objects": []}\n')
    assert load_objects(path) == {1: {"dog", "cat"}, 2: set()}
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_objects(tmp_path / "none.jsonl")


@pytest.mark.parametrize("row", ["{", "[]", '{"image_id": 2}', '{"image_id": 2, "objects": "dog"}'])
def test_objects_row_of_another_form(tmp_path, row):
    path = tmp_path / "objects.jsonl"
    path.write_text('{"image_id": 1, "objects": []}\n' + row + "\n")
    with pytest.raises(
        ValueError,
        match=r"objects\.jsonl, row 2: (expected `image_id` and `obj|objects is|not JSON|expected an object)",
    ):
        load_objects(path)


def test_objects_of_an_image_twice(tmp_path):
    (tmp_path / "o.jsonl").write_text('{"image_id": 1, "objects": []}\n' * 2)
    with pytest.raises(ValueError, match="row 2: image 1 has a row already"):
        load_objects(tmp_path / "o.jsonl")


def test_annotations_are_parsed_once_per_cache(coco_folder, tmp_path, monkeypatch):
    cache = tmp_path / "out" / "ground_truth.json"
    plain = load_annotations(coco_folder, [2, 1, 7], allow_missing=True)
    assert load_annotations(coco_folder, [2, 1, 7], allow_missing=True, cache=cache) == plain
    parsed = []

    read = coco._add_annotations

    def count(found, path, *more):
        parsed.append(path)
        return read(found, path, *more)

    monkeypatch.setattr(coco, "_add_annotations", count)
    assert load_annotations(coco_folder, [1, 7], allow_missing=True, cache=cache) == {1: plain[1], 7: plain[7]}
    assert list(load_annotations(coco_folder, [2, 1], cache=cache)) == [2, 1]
    assert load_annotations(coco_folder, [7], cache=cache) == {7: coco.ImageAnnotations()}  # listed, and empty
    assert not parsed

    with pytest.raises(ValueError, match="image 9 has no annotation"):  # an image it doesn't know: read anew
        load_annotations(coco_folder, [9], cache=cache)
    assert len(parsed) == 4
    cache.write_text("{")
    assert load_annotations(coco_folder, [1], cache=cache) == {1: plain[1]}
    assert len(parsed) == 8
    file = coco_folder / "captions_train2014.json"
    file.write_text(file.read_text().replace("A man and a dog.", "A cat."))
    assert load_annotations(coco_folder, [1], cache=cache)[1].captions[0] == "A cat."
    assert len(parsed) == 12


@pytest.mark.parametrize(
    "damage", ["", "[]", "{}", '{"files": KEY, "images": {"1": 3}}', '{"files": KEY, "images": [1]}']
)
def test_a_damaged_cache_is_made_anew(coco_folder, tmp_path, damage):
    cache = tmp_path / "ground_truth.json"
    expected = objects_of(load_annotations(coco_folder, [1], cache=cache))
    whole = cache.read_text()
    cache.write_text(damage.replace("KEY", json.dumps(json.loads(whole)["files"])))
    assert objects_of(load_annotations(coco_folder, [1], cache=cache)) == expected == {1: {"dog", "person", "hot dog"}}
    assert cache.read_text() == whole


def test_a_cache_that_says_something_else_is_made_anew(coco_folder, tmp_path):
    cache = tmp_path / "ground_truth.json"
    load_annotations(coco_folder, [1], cache=cache)
    whole = cache.read_text()
    assert '"dog"' in whole
    for changed in (whole.replace('"dog"', '"cat"'), whole.replace('"captions": [', '"captions": ["A bus.", ', 1)):
        cache.write_text(changed)
        assert objects_of(load_annotations(coco_folder, [1], cache=cache)) == {1: {"dog", "person", "hot dog"}}
        assert cache.read_text() == whole


def test_a_file_of_others_that_is_called_like_the_cache_stays(coco_folder, tmp_path):
    cache = tmp_path / "ground_truth.json"
    for content in ('{"images": []}', '{"image_id": 1}\n{"image_id": 2}\n', "[1]"):
        cache.write_text(content)
        with pytest.raises(FileExistsError, match=r"ground_truth\.json: is there already, and no run of ours wrote it"):
            load_annotations(coco_folder, [1], cache=cache)
        assert cache.read_text() == content


def test_of_several_processes_the_first_one_parses_and_each_waits_once(coco_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    calls = []
    monkeypatch.setattr("llava_hh.files.processes.Processes.wait", lambda self: calls.append(f"{self.rank} waits"))

    read = coco._add_annotations

    def parse(*arguments):
        calls.append("parse")
        return read(*arguments)

    monkeypatch.setattr(coco, "_add_annotations", parse)
    found = []
    for rank in ("0", "1", "0", "1"):  # the second time from the cache
        monkeypatch.setenv("RANK", rank)
        found.append(load_annotations(coco_folder, [1, 2], cache=tmp_path / "cache.json"))
    assert calls == ["parse"] * 4 + ["0 waits", "1 waits"] * 2
    assert found == [load_annotations(coco_folder, [1, 2])] * 4
