"""Ids: text of digits is the number and nothing else is one, in every file that users bring."""

import json

import pytest

from llava_hh.attribution.captions import hallucinating_captions
from llava_hh.data import nocaps
from llava_hh.data.amber import load_amber
from llava_hh.data.coco import ImageAnnotations, load_annotations, load_image_list, load_objects
from llava_hh.data.instruct import parse_conversation
from llava_hh.data.pope import load_questions
from llava_hh.files.files import sha256
from llava_hh.files.ids import number_or_text, whole_id
from llava_hh.heads import Head, load_heads
from llava_hh.runs.scored import read_scored
from llava_hh.scoring import answers as vqa
from llava_hh.scoring import benchmarks
from tests.support.coco_files import write_truth
from tests.support.nocaps_files import CANS, CAPTION_FILE, NEAR, write_official
from tests.support.verbs import score_chair, score_vqa

NO_IDS = [None, True, 100.5, 1.0, [1], {}, "one", "", "1.0", " 1", "\u0661", "9" * 5000]  # the last is an Arabic digit
TEXTS = {"digits": str, "padded": "{:012d}".format}


def test_the_rule():
    for value in (7, "7", "000000000007"):
        assert whole_id(value) == number_or_text(value) == 7
    assert number_or_text("n161313") == "n161313"
    for value in NO_IDS:
        with pytest.raises(ValueError, match=r"^question is .*; expected a whole number$"):
            whole_id(value, "question")
    for value in (None, True, 100.5, [1], ""):
        with pytest.raises(ValueError, match="expected a whole number"):
            number_or_text(value)


PLACES = ("images", "boxes", "kinds", "categories", "captioned", "texts", "rows")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("write", TEXTS.values(), ids=TEXTS)
def test_text_of_digits_is_the_number(place, write, tmp_path):
    """By hand: dog and couch are there, the bicycle is not; so 1 of 2 captions, 1 of 3 objects."""
    folder = write_truth(tmp_path / "annotations", **{place: write})
    rows = [{"image_id": 1, "text": "A dog on a couch."}, {"image_id": 2, "text": "A red bicycle."}]
    if place == "rows":
        rows = [{**row, "image_id": write(row["image_id"])} for row in rows]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    score_chair(["--captions", str(tmp_path / "c.jsonl"), "--annotations", str(folder)])
    result = json.loads((tmp_path / "captions_eval_results.json").read_text())
    overall = result["overall_metrics"]
    assert (overall["CHAIRs"], overall["CHAIRi"]) == (1 / 2, 1 / 3)
    assert "Bleu" in overall and [entry["image_id"] for entry in result["sentences"]] == [1, 2]
    assert [image["image_id"] for image in load_image_list(folder / "captions_val2014.json")] == [1, 2]


@pytest.mark.parametrize("value", NO_IDS, ids=repr)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_id_is_refused_with_file_and_row(place, value, tmp_path, capsys):
    folder = write_truth(tmp_path / "annotations", **{place: lambda number: value if number in (2, 6) else number})
    rows = [{"image_id": 1, "text": "A dog."}, {"image_id": value if place == "rows" else 2, "text": "A bus."}]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = {"rows": "c.jsonl, row 2: ", "captioned": "row 2 of `images`", "images": "row 2 of `images`"}
    named |= {"categories": "row 2 of `categories`"}
    if place == "captioned":
        with pytest.raises(ValueError, match=r"captions_val2014\.json, row 2 of `images`: .*id is .*expected a whole"):
            load_image_list(folder / "captions_val2014.json")
        return
    with pytest.raises(SystemExit) as stopped:
        score_chair(["--captions", str(tmp_path / "c.jsonl"), "--annotations", str(folder)])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1
    assert named.get(place, "row 2 of `annotations`") in error and "whole number" in error
    assert place == "rows" or ("captions_" if place == "texts" else "instances_") + "val2014.json: " in error


def test_images_that_no_instances_file_lists_are_not_images_without_objects(tmp_path, capsys):
    folder = write_truth(tmp_path / "annotations")
    path = folder / "instances_val2014.json"
    content = json.loads(path.read_text())
    content["annotations"] = content["annotations"][:1]
    path.write_text(json.dumps(content))
    assert load_annotations(folder, [2]) == {2: ImageAnnotations(set(), ["A street."])}  # listed, without objects
    content["images"] = content["images"][:1]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"image 2 has no annotation; .*The list `images` of an instances file must"):
        load_annotations(folder, [1, 2])
    captions = tmp_path / "c.jsonl"
    captions.write_text('{"image_id": 1, "text": "A dog."}\n{"image_id": 2, "text": "A cat."}\n')
    flags = ["--captions", str(captions), "--annotations", str(folder)]
    with pytest.raises(SystemExit):
        score_chair(flags)
    assert f"{captions}, row 2: image 2 has no ground truth in {folder}" in capsys.readouterr().err
    score_chair([*flags, "--skip-bad"])
    result = json.loads((tmp_path / "captions_eval_results.json").read_text())
    assert result["run"]["n_skipped"] == 1 and [entry["image_id"] for entry in result["sentences"]] == [1]


def test_what_was_kept_by_other_rules_is_read_anew(tmp_path):
    """A folder of results keeps a copy of the ground truth; earlier versions lost objects whose ids were text."""
    folder = write_truth(tmp_path / "coco", boxes=str)
    cache = tmp_path / "ground_truth.json"
    expected = load_annotations(folder, [1, 2])
    assert {"dog"} == expected[1].categories
    old = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    images = {str(image_id): {"categories": [], "captions": []} for image_id in (1, 2)}
    cache.write_text(json.dumps({"files": old, "images": images}))
    assert load_annotations(folder, [1, 2], cache=cache) == expected
    assert load_annotations(folder, [1, 2], cache=cache) == expected  # of the copy that was made


def test_a_category_that_is_not_listed(tmp_path):
    folder = write_truth(tmp_path / "annotations", categories=lambda number: number + 1)
    with pytest.raises(ValueError, match=r"instances_val2014\.json: .*image . has category \d+, which is not in"):
        load_annotations(folder, [1, 2])


READERS = {  # a file of two rows with ids, what reads it, and what its ids are
    "objects": (
        lambda ids: "".join(json.dumps({"image_id": own, "objects": []}) + "\n" for own in ids),
        lambda path: list(load_objects(path)),
        ", row 2: ",
    ),
    "pope": (
        lambda ids: "".join(
            json.dumps({"question_id": own, "image": "a.jpg", "text": "A dog?", "label": "yes"}) + "\n" for own in ids
        ),
        lambda path: [row["question_id"] for row in load_questions(path)],
        ", row 2: question_id",
    ),
    "pope's images": (
        lambda ids: "".join(
            json.dumps({"question_id": 1, "image_id": own, "image": "a", "text": "A dog?", "label": "no"}) + "\n"
            for own in ids
        ),
        lambda path: [row["image_id"] for row in load_questions(path)],
        ", row 2: image_id",
    ),
    "answers to AMBER": (
        lambda ids: "".join(json.dumps({"question_id": own, "text": "Yes"}) + "\n" for own in ids),
        lambda path: list(benchmarks.read_answers(path, "amber")),
        ", row 2: ",
    ),
    "answers to VQA": (
        lambda ids: "".join(json.dumps({"question_id": own, "text": "Yes"}) + "\n" for own in ids),
        lambda path: [int(name) for name in vqa.read_answers(path, "question_id", "text")],
        ", row 2: ",
    ),
    "truth of VQA": (
        lambda ids: json.dumps({"annotations": [{"question_id": own, "image_id": 1, "answers": []} for own in ids]}),
        lambda path: [int(name) for name in vqa.read_truth(path)],
        ", row 2: ",
    ),
    "heads": (
        lambda ids: json.dumps({"hal_heads": [[3, own] for own in ids]}),
        lambda path: [head.head for head in load_heads(path)],
        r": hal_heads\[1\]",
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_other_readers_have_the_same_rule(name, tmp_path):
    write, read, where = READERS[name]
    path = tmp_path / "file.json"
    path.write_text(write(["0001", "2"]))
    assert read(path) == [1, 2]
    for value in (None, True, 100.5, [2]):
        path.write_text(write([1, value]))
        with pytest.raises(ValueError, match=rf"file\.json{where}") as error:
            read(path)
        assert "number" in str(error.value) and "\n" not in str(error.value)


def test_answers_and_truth_of_vqa_meet(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"question_id": "007", "text": "yes"}\n')
    truth = {"annotations": [{"question_id": 7, "image_id": "1", "answers": [{"answer": "yes"}] * 10}]}
    (tmp_path / "t.json").write_text(json.dumps(truth))
    score_vqa(["--answers", str(tmp_path / "a.jsonl"), "--truth", str(tmp_path / "t.json")])
    assert "all: 100.0%" in capsys.readouterr().out


def test_amber_and_nocaps(tmp_path):
    (tmp_path / "relation.json").write_text("{}")
    (tmp_path / "safe_words.txt").write_text("")
    for value, message in (("0003", None), (None, "row 1: .*id is None"), (3.5, "row 1: .*id is 3.5")):
        row = {"id": value, "type": "relation", "truth": "yes"}
        (tmp_path / "annotations.json").write_text(json.dumps([row]))
        if message is None:
            assert list(load_amber(tmp_path).annotations) == [3]
        else:
            with pytest.raises(ValueError, match=rf"annotations\.json, {message}"):
                load_amber(tmp_path)
    folder = write_official(tmp_path / "nocaps")
    plain = nocaps.load_annotations(folder, [CANS, NEAR])
    path = folder / CAPTION_FILE
    content = json.loads(path.read_text())
    for row in content["annotations"]:
        row["image_id"] = f"{row['image_id']:04d}"
    path.write_text(json.dumps(content))
    assert nocaps.load_annotations(folder, [CANS, NEAR]) == plain
    content["images"][0]["id"] = 0.5
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"{CAPTION_FILE}, row 1 of `images`: .*id is 0\.5"):
        nocaps.load_image_list(folder)


@pytest.mark.parametrize("value", [None, [1], {"a": 1}, 1.5, True])
def test_scored_captions(value, tmp_path):
    (tmp_path / "c.jsonl").write_text('{"image_id": 1, "text": "A cat."}\n{"image_id": 2, "text": "A cat."}\n')
    (tmp_path / "o.jsonl").write_text('{"image_id": 1, "objects": []}\n{"image_id": 2, "objects": []}\n')
    score_chair(["--captions", str(tmp_path / "c.jsonl"), "--objects", str(tmp_path / "o.jsonl")])
    path = tmp_path / "captions_eval_results.json"
    content = json.loads(path.read_text())
    for entry in content["sentences"]:
        entry |= {"image": "a.jpg", "prompt": "what", "token_ids": [1]}
    content["sentences"][1]["image_id"] = "0002"
    path.write_text(json.dumps(content))
    assert [entry["image_id"] for entry in read_scored(path)[0]] == [1, 2]
    assert [entry["image_id"] for entry in hallucinating_captions(path)] == [1, 2]
    for mention in content["sentences"][1]["mentions"]:
        mention["hallucinated"] = False
    path.write_text(json.dumps(content))
    for read in (read_scored, hallucinating_captions):
        with pytest.raises(ValueError, match="hallucinated mentions do not fit its mscoco_gt_words"):
            read(path)
    content["sentences"][1]["mentions"][0]["hallucinated"] = True
    content["sentences"][1]["image_id"] = value
    path.write_text(json.dumps(content))
    for read in (read_scored, hallucinating_captions):
        with pytest.raises(ValueError, match=r"captions_eval_results\.json: entry 1 of `sentences`: .*image_id"):
            read(path)


def test_ids_of_nocaps_stay_text(tmp_path):
    """Sixteen hexadecimal digits may all be decimal ones."""
    name = "0013208790209012"
    captions, objects = tmp_path / "c.jsonl", tmp_path / "o.jsonl"
    captions.write_text(json.dumps({"image_id": name, "text": "A dog."}) + "\n")
    objects.write_text(json.dumps({"image_id": f"{name}.jpg", "objects": ["Tin can"]}) + "\n")
    score_chair(["--captions", str(captions), "--objects", str(objects), "--dataset", "nocaps"])
    assert read_scored(tmp_path / "captions_eval_results.json")[0][0]["image_id"] == name


def test_ids_of_samples():
    row = {"id": "VG_100K/3", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    assert parse_conversation(row).sample_id == "VG_100K/3"
    assert parse_conversation({**row, "id": 7}).sample_id == "7"
    for value in (None, [1], 1.5, True):
        with pytest.raises(ValueError, match="expected a whole number"):
            parse_conversation({**row, "id": value})


def test_heads_of_digits(tmp_path):
    (tmp_path / "h.json").write_text('{"hal_heads": [["16", "029"]]}')
    assert load_heads(tmp_path / "h.json") == [Head(16, 29)]
