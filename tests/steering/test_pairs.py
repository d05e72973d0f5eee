"""Pairs of captions: as the file has them, and made of annotations."""

import json
import random
from itertools import chain

import pytest

from llava_hh.data.coco import load_annotations, load_image_list
from llava_hh.metrics.chair.chair import find_objects, objects_of
from llava_hh.metrics.chair.variants import load_synonyms
from llava_hh.steering.pairs import pairs_of_annotations, pairs_of_file, plural, swapped

SWAPS = [
    ("A dog on a bench.", {"dog": "umbrella"}, "An umbrella on a bench."),
    ("An oven beside a dog.", {"oven": "cat", "dog": "apple"}, "A cat beside an apple."),
    ("Two dogs and the cat", {"dog": "knife"}, "Two knives and the cat"),
    ("Three people, a hot dog", {"person": "wine glass", "hot dog": "tv"}, "Three wine glasses, a tv"),
    ("Dogs! The women smile.", {"dog": "bus", "person": "sheep"}, "Buses! The sheep smile."),
    ("Is a dog a dog?", {"dog": "elephant"}, "Is an elephant an elephant?"),
]


@pytest.mark.parametrize(("caption", "swaps", "expected"), SWAPS)
def test_objects_are_swapped(caption, swaps, expected):
    assert swapped(caption, find_objects(caption), swaps) == expected


def test_plurals_of_all_categories_are_read_again():
    for category in load_synonyms():
        assert [mention.node for mention in find_objects(f"two {plural(category)}.", "clean")] == [category], category


def test_pairs_of_annotations(tiny_coco):
    """The caption is a reference; what came in is not in the image, half of the objects stayed."""
    where = tiny_coco / "annotations", "train2014", tiny_coco / "train2014"
    pairs, files = pairs_of_annotations(*where, 9, 42, "What?")
    assert [file.name for file in files] == ["captions_train2014.json", "instances_train2014.json"]
    ids = {image["file_name"]: image["image_id"] for image in load_image_list(files[0])}
    known = load_annotations(where[0], ids.values(), ["train2014"])
    shown = objects_of(known)
    assert len({pair.image for pair in pairs}) == 9
    for pair in pairs:
        image_id = ids[pair.image.name]
        assert pair.image.is_file() and pair.question == "What?" and pair.truthful in known[image_id].captions
        before, after = ({each.node for each in find_objects(text)} for text in (pair.truthful, pair.hallucinated))
        assert before <= shown[image_id] and len(after - shown[image_id]) == (len(before) + 1) // 2
    assert pairs == pairs_of_annotations(*where, 9, 42, "What?")[0]
    assert pairs != pairs_of_annotations(*where, 9, 43, "What?")[0]
    everywhere = set(chain(*(entry.categories for entry in known.values())))
    assert all({each.node for each in find_objects(pair.hallucinated)} <= everywhere for pair in pairs)
    with pytest.raises(ValueError, match="14 images have a caption with an object to swap, 15 were asked for"):
        pairs_of_annotations(*where, 15, 42, "What?")


def rows(n):
    return [{"image": f"{i}.jpg", "question": f"q{i}", "value": f"true {i}", "h_value": f"false {i}"} for i in range(n)]


def test_pairs_of_a_file_are_drawn_as_the_code_draws_them(tmp_path):
    path = tmp_path / "demos.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(100)))
    random.seed(42)
    expected = random.sample(rows(100), 70)
    pairs = pairs_of_file(path, tmp_path, 70, 42)
    assert [(*map(str, (pair.image.name, *pair[1:])),) for pair in pairs] == [(*row.values(),) for row in expected]
    with pytest.raises(ValueError, match="demos.jsonl: 100 rows, 101 were asked for; give a smaller --n-pairs"):
        pairs_of_file(path, tmp_path, 101, 42)


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"h_value": 3}, "h_value is 3"), ({"image": "../a.jpg"}, "leaves the image folder"), (None, "no `question`")],
)
def test_a_bad_row_is_one_line(change, problem, tmp_path):
    bad = rows(2)
    bad[1] = {**bad[1], **change} if change else {"image": "a.jpg"}
    path = tmp_path / "demos.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in bad))
    with pytest.raises(ValueError, match=f"demos.jsonl, row 2: .*{problem}") as error:
        pairs_of_file(path, tmp_path, 2, 42)
    assert "\n" not in str(error.value)
