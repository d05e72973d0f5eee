"""nocaps: its files in both layouts, and nocaps-CHAIR on captions worked out by hand."""

import json
import random
from pathlib import Path

import pytest

from llava_hh.data.coco import ImageAnnotations
from llava_hh.data.nocaps import annotation_files, image_id_of, load_annotations, load_image_list
from llava_hh.data.sample import sample_images
from llava_hh.metrics.chair.chair import corpus_metrics
from llava_hh.metrics.chair.nocaps import class_of_label, find_classes, load_classes, objects_of, score_caption
from tests.support.nocaps_files import (
    BOX_FILE,
    CANS,
    CAPTION_FILE,
    CAPTIONS,
    CLASS_FILE,
    LABEL_FILE,
    LABELS,
    NEAR,
    SHOES,
    STREET,
    write_captions_file,
    write_collected,
    write_official,
)

OUT = [CANS, STREET, SHOES]
COLLECTED = "nocaps_out-domain_collected_gt.json"


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A taxi and two women.", [("taxi", "vehicle"), ("woman", "person")]),
        ("Nothing but sky.", []),
        ("", []),
        ("Dogs, a dog", [("dog", "animal"), ("dog", "animal")]),
        ("People and children", [("person", "person")]),  # no class has a label "child"
        ("people watch", [("person", "person"), ("watch", "clothing")]),  # a verb is taken for a noun
        # a label of several classes is of the last one
        ("a spoon and a bottle", [("spoon", "tool"), ("bottle", "tool")]),
        ("two knives", [("knife", "weapon")]),
        ("a helmet and a hat", [("helmet", "sports equipment"), ("hat", "clothing")]),
        ("an oven", [("oven", "kitchenware")]),
        # labels of two words, in the singular, from left to right
        ("Teddy bears beside a bear", [("teddy bear", "animal"), ("bear", "animal")]),
        ("Hot dogs and wine glasses", [("hot dog", "food"), ("wine glass", "kitchenware")]),
        ("a palm tree house", [("palm tree", "plant"), ("house", "building")]),
        ("a tree house", [("tree house", "building")]),
        ("hot, dog", [("dog", "animal")]),
        # CHAIR's other pairs of words mean nothing here
        ("a baby bear at the home plate", [("bear", "animal"), ("plate", "kitchenware")]),
        ("a toilet whose seat is up", [("toilet", "plumbing fixture")]),
        # labels that the singular never equals
        ("jeans, sunglasses, french fries and a tennis ball", [("ball", "sports equipment")]),
        ("a bus, two buses", [("bus", "vehicle")]),
        ("a bat, an egg", []),  # "Bat (Animal)", "Egg (Food)"
    ],
)
def test_classes_of_a_caption(caption, expected):
    assert [(mention.word, mention.node) for mention in find_classes(caption)] == expected


def test_mentions_keep_their_place():
    caption = "The WINE glasses."
    [mention] = find_classes(caption)
    assert (mention.index, caption[mention.start : mention.end]) == (1, "WINE glasses")


def test_the_classes():
    """A class is among its own labels and no other's, so that a class looked up once more is itself."""
    classes = load_classes()
    assert (len(classes), len(class_of_label()), sum(map(len, classes.values()))) == (90, 601, 650)
    assert all(class_of_label()[name] == name.lower() for name in classes)


def test_ground_truth_is_labels_and_captions():
    found = {
        "cans": ImageAnnotations({"Tin can", "Drink"}, ["Two tin cans beside a cup.", "Coffees on a table."]),
        "sky": ImageAnnotations({"Sky"}, ["A woman."]),
    }
    assert objects_of(found) == {"cans": {"tool", "drink", "furniture"}, "sky": {"person"}}
    assert objects_of({"nothing": ImageAnnotations()}) == {"nothing": set()}
    with pytest.raises(ValueError, match="label '/m/01' and all others are in no class"):
        objects_of({"codes": ImageAnnotations({"/m/01", "/m/02"})})


def test_score_of_a_caption():
    entry = score_caption("A man with a hammer, spoons and a dog.", {"person", "tool", "plant"})
    assert entry["mscoco_hallucinated_words"] == [["dog", "animal"]]
    assert entry["mscoco_non_hallucinated_words"] == [["man", "person"], ["hammer", "tool"], ["spoon", "tool"]]
    assert entry["mscoco_generated_words"] == ["person", "tool", "tool", "animal"]
    assert entry["mscoco_gt_words"] == ["person", "plant", "tool"]
    assert entry["words"] == ["a", "man", "with", "a", "hammer", ",", "spoon", "and", "a", "dog", "."]
    assert entry["hallucination_idxs"] == [9]
    assert entry["metrics"] == {
        "CHAIRs": 1,
        "CHAIRi": 1 / 4,
        "precision": 2 / 3,
        "recall": 2 / 3,
        "f1": 2 / 3,
    }
    overall = corpus_metrics([entry, score_caption("A tree.", {"plant"})], "nocaps")
    assert (overall["CHAIRs"], overall["CHAIRi"], overall["recall"]) == (1 / 2, 1 / 5, 3 / 4)
    assert overall["variant"] == "nocaps"


@pytest.mark.parametrize("write", [write_official, write_collected])
def test_both_layouts_give_the_same_records(write, tmp_path):
    folder = write(tmp_path)
    images = load_image_list(folder)
    assert [(image["image_id"], image["file_name"]) for image in images] == [(name, f"{name}.jpg") for name in OUT]
    found = load_annotations(folder, [SHOES, CANS, STREET])
    assert list(found) == [SHOES, CANS, STREET]
    for name, entry in found.items():
        assert (entry.categories, entry.captions) == (set(LABELS[name]), CAPTIONS[name])
    assert objects_of(found)[STREET] == {"vehicle", "person"}


def test_domains_and_numbers_of_the_official_layout(tmp_path):
    folder = write_official(tmp_path)
    assert load_image_list(folder, "near-domain") == [{"image_id": NEAR, "file_name": f"{NEAR}.jpg", "question_id": 0}]
    assert [image["question_id"] for image in load_image_list(folder)] == [1, 2, 3]
    assert load_annotations(folder, [NEAR])[NEAR].categories == {"Dog"}
    with pytest.raises(ValueError, match="no image of the domain in-domain"):
        load_image_list(folder, "in-domain")
    with pytest.raises(ValueError, match="'val2014' is no domain of nocaps; expected one of: in-domain, near-domain"):
        load_image_list(folder, "val2014")


def test_sample_is_the_papers(tmp_path):
    images = load_image_list(write_official(tmp_path))
    random.seed(42)
    drawn = random.sample([image["image_id"] for image in images], 2)
    assert [image["image_id"] for image in sample_images(images, 2)] == drawn


def test_collected_ground_truth_comes_first_and_the_order_from_the_captions_file(tmp_path):
    folder = write_collected(write_official(tmp_path))
    assert [path.name for path in annotation_files(folder)] == [COLLECTED]
    assert "question_id" in load_image_list(folder)[0]
    with pytest.raises(ValueError, match=f"image {NEAR} has no ground truth; looked in {COLLECTED}"):
        load_annotations(folder, [CANS, NEAR])
    assert list(load_annotations(folder, [CANS, NEAR], allow_missing=True)) == [CANS]


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        annotation_files(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=f"no {CAPTION_FILE} there"):
        annotation_files(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"{COLLECTED}: no such file; expected it, or {CAPTION_FILE}"):
        load_image_list(tmp_path)
    write_captions_file(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no \*class-descriptions\*\.csv there"):
        annotation_files(tmp_path)
    write_official(tmp_path)
    (tmp_path / BOX_FILE).unlink()  # boxes may be missing
    assert load_annotations(tmp_path, [SHOES, CANS])[SHOES].categories == set()
    (tmp_path / LABEL_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=r"no \*human-imagelabels\*\.csv there"):
        annotation_files(tmp_path)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (CAPTION_FILE, '"domain"', '"area"', "row 1 of `images`: expected an object with `id`, .* no `domain`"),
        (CAPTION_FILE, CANS, "cans", "row 2 of `images`: .*'cans' is no Open Images id"),
        (CAPTION_FILE, '"images"', '"pictures"', "expected JSON with a list `images`"),
        (CAPTION_FILE, '"image_id": 2', '"image_id": 9', "row 4 of `annotations`: .*image_id 9 is not in `images`"),
        (CAPTION_FILE, '"A dog."', "3", "row 1 of `annotations`: .*caption is 3; expected a text"),
        (CAPTION_FILE, "}]", "}", "row 5 of `images`: expected an object with `id`"),
        (CAPTION_FILE, "}]}", "}", "not JSON"),
        (LABEL_FILE, "Confidence", "Sure", "row 1: expected Open Images' columns, ImageID, LabelName, Confidence"),
        (LABEL_FILE, "/m/01,1", "/m/01,0.7", "row 2: Confidence is '0.7'; expected 0 or 1"),
        (LABEL_FILE, ",/m/02,1", "", "row 3: Confidence is None"),
        (LABEL_FILE, "/m/03", "/m/99", "row 4: label '/m/99' has no name"),
        (CLASS_FILE, "/m/02,Drink", "/m/02", "row 3: expected a class's code and its name"),
    ],
)
def test_bad_official_files(tmp_path, name, old, new, message):
    path = write_official(tmp_path) / name
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=rf"{name}(, |: ){message}") as error:
        load_image_list(tmp_path)
        load_annotations(tmp_path, OUT)
    assert "\n" not in str(error.value)


def test_labels_of_other_images_are_refused(tmp_path):
    path = write_official(tmp_path) / LABEL_FILE
    path.write_text("ImageID,Source,LabelName,Confidence\nffffffffffffffff,verification,/m/06,1\n")
    (tmp_path / BOX_FILE).unlink()
    with pytest.raises(ValueError, match=f"no label of any of 3 images in {LABEL_FILE}"):
        load_annotations(tmp_path, OUT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1].pop("labels"), "row 2: expected an object with .* and `human_captions`; no `labels`"),
        (lambda rows: rows[0].update(labels="Tin can"), "row 1: .*labels is 'Tin can'; expected a list"),
        (lambda rows: rows[2].update(image_id=7), "row 3: .*7 is no Open Images id"),
        (lambda rows: rows.append(rows[0]), f": image {CANS} is listed twice"),
    ],
)
def test_bad_collected_file(tmp_path, change, message):
    path = write_collected(tmp_path) / COLLECTED
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=f"{COLLECTED}.*{message}"):
        load_annotations(tmp_path, OUT)


def test_ids_of_images():
    for name in (CANS, f"{CANS}.jpg", str(Path("images", "val", f"{CANS}.jpg"))):
        assert image_id_of(name) == CANS
    for name in ("COCO_val2014_000000000042.jpg", CANS[1:], 42, None, ""):
        with pytest.raises(ValueError, match="is no Open Images id"):
            image_id_of(name)
