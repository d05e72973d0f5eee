"""Captions, ids and objects of one's own through `score chair`: other forms of files, a second file, a vocabulary."""

import json

import pytest

from tests.support.coco_files import write_coco
from tests.support.verbs import error_of, write_rows
from tests.support.verbs import score_chair as main


def result_of(path):
    return json.loads(path.read_text())


CAPTIONS = {"a.jpg": "A dog and a cat.", "12": "Two buses.", "sub/b.png": "A kite."}


@pytest.mark.parametrize("form", ["list of text", "list of caption", "object", "lines", "lines with other keys"])
def test_captions_of_any_form_have_the_same_scores(form, tmp_path):
    """Ids are any text where the truth is one's own; text of digits is the number."""
    keys = {"list of caption": ("image_id", "caption"), "lines with other keys": ("id", "answer")}
    id_key, text_key = keys.get(form, ("image_id", "text"))
    rows = [{id_key: name, text_key: text, "note": 1} for name, text in CAPTIONS.items()]
    path = tmp_path / "mine.json"
    if form == "object":
        path.write_text("\n " + json.dumps(CAPTIONS, indent=1))
    elif form.startswith("list"):
        path.write_text("\ufeff" + json.dumps(rows, indent=1), encoding="utf-8")
    else:
        write_rows(path, rows)
    truth = [("a.jpg", ["dog"]), ("0012", ["bus"]), ("sub/b.png", ["bird"])]
    objects = write_rows(tmp_path / "o.jsonl", [{"image_id": name, "objects": shown} for name, shown in truth])
    further = ["--id-key", "id", "--text-key", "answer"] * (form == "lines with other keys")
    main(["--captions", str(path), "--objects", str(objects), *further])
    result = result_of(tmp_path / "captions_eval_results.json")
    assert [entry["image_id"] for entry in result["sentences"]] == ["a.jpg", 12, "sub/b.png"]
    assert [entry["caption"] for entry in result["sentences"]] == [*CAPTIONS.values()]
    overall = result["overall_metrics"]
    assert (overall["CHAIRs"], overall["CHAIRi"], overall["recall"]) == (2 / 3, 2 / 4, 2 / 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"image_id": 1, "text": "a"}, 3]', "row 2: expected an object, found a int"),
        ('[{"image_id": 1, "text": "a"}, {"image_id": 2}]', "row 2: no key 'text' (--text-key); its keys are image_id"),
        ('{"a": "A dog.", "b": null}', "row 2: 'text' (--text-key) is None; expected a string"),
        ('{"": "A dog."}', "row 1: 'image_id' (--id-key) is ''; expected a whole number or a text"),
        ('{"12": "A dog.", "12": "A cat."}', "image 12 has 2 captions; expected one for each id"),
        ('{"12": "A dog.", "012": "A cat."}', "image 12 has 2 captions; expected one for each id"),
        ("[]", "no caption to score"),
        ("{}", "no caption to score"),
        ('[{"image_id": 1, "text": "a"}', "expected ']'"),
    ],
)
def test_what_is_wrong_with_captions_of_other_forms(text, message, tmp_path, capsys):
    path = tmp_path / "mine.json"
    path.write_text(text)
    objects = write_rows(tmp_path / "o.jsonl", [{"image_id": 1, "objects": []}, {"image_id": "a", "objects": []}])
    error = error_of(main, capsys, "--captions", path, "--objects", objects)
    assert message in error and str(path) in error and error.count("\n") == 1


def test_names_for_one_image(tmp_path, capsys):
    path = tmp_path / "mine.json"
    path.write_text('{"photo.jpg": "A puppy, two cats and a man."}')
    main(["--captions", str(path), "--truth", "Dog, person"])
    result = result_of(tmp_path / "captions_eval_results.json")
    assert result["sentences"][0]["mscoco_gt_words"] == ["dog", "person"] and result["run"]["truth"] == [
        "Dog",
        "person",
    ]
    assert result["sentences"][0]["mscoco_hallucinated_words"] == [["cats", "cat"]]
    main(["--captions", str(path), "--truth", "Dog, person, cat"])
    assert result_of(tmp_path / "captions_eval_results.json")["overall_metrics"]["CHAIRi"] == 0
    path.write_text('{"photo.jpg": "A dog.", "other.jpg": "A dog."}')
    assert "--truth is for one image, here are 2" in error_of(main, capsys, "--captions", path, "--truth", "dog")


def test_a_second_file_has_a_result_of_its_own(tmp_path, capsys):
    """The first result stays, byte for byte; each command again finds its own finished."""
    objects = write_rows(tmp_path / "o.jsonl", [{"image_id": 1, "objects": ["dog"]}])
    results = {"first.jsonl": "captions_eval_results.json", "second.jsonl": "second_eval_results.json"}
    results |= {"captions.jsonl": "captions.jsonl_eval_results.json"}
    contents = {}
    for number, (name, result) in enumerate(results.items()):
        write_rows(tmp_path / name, [{"image_id": 1, "text": "A dog." + " A cat." * number}])
        main(["--captions", str(tmp_path / name), "--objects", str(objects)])
        assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / result)
        contents[result] = (tmp_path / result).read_bytes()
        for before, content in contents.items():
            assert (tmp_path / before).read_bytes() == content
    for name, result in results.items():
        main(["--captions", str(tmp_path / name), "--objects", str(objects)])
        assert f"finished before: {tmp_path / result}" in capsys.readouterr().err
        assert (tmp_path / result).read_bytes() == contents[result]


def test_captions_beside_those_of_an_evaluation(tmp_path):
    """`evaluate` wrote scores of captions.jsonl there, whose run has the settings of a method."""
    (tmp_path / "captions_eval_results.json").write_text('{"sentences": [], "run": {"model": {}}}')
    mine = write_rows(tmp_path / "mine.jsonl", [{"image_id": 1, "text": "A dog."}])
    main(["--captions", str(mine), "--truth", "dog"])
    assert (tmp_path / "captions_eval_results.json").read_text().startswith('{"sentences": []')
    assert result_of(tmp_path / "mine_eval_results.json")["overall_metrics"]["CHAIRi"] == 0


@pytest.fixture
def synonyms(tmp_path):
    path = tmp_path / "lab.json"
    path.write_text('{"Flask": ["beaker", "glass bus"], "burner": [], "glass": ["glasses"], "test tube": []}')
    return path


def test_a_vocabulary_of_ones_own(tmp_path, synonyms, capsys):
    """By hand: COCO's words are none here; plurals and pairs are read; "glass buses" is one flask, and no bus."""
    text = "Beakers and two glass buses by a burner, a dog, eyeglasses, glasses and test tubes."
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"x.jpg": text}))
    argv = ["--captions", str(path), "--synonyms", str(synonyms), "--truth", "flasks, glass, BURNER"]
    main(argv)
    result = result_of(tmp_path / "captions_eval_results.json")
    [entry] = result["sentences"]
    assert entry["mscoco_non_hallucinated_words"] == [
        ["beakers", "Flask"],
        ["glass bus", "Flask"],
        ["burner", "burner"],
        ["glasses", "glass"],
    ]
    assert entry["mscoco_hallucinated_words"] == [["test tube", "test tube"]]
    assert entry["mscoco_gt_words"] == ["Flask", "burner", "glass"]
    assert [text[m["start"] : m["end"]] for m in entry["mentions"]][:2] == ["Beakers", "glass buses"]
    variant = result["overall_metrics"]["variant"]
    assert variant.startswith("own-") and str(synonyms) in result["run"]["sha256"]
    synonyms.write_text(synonyms.read_text().replace("burner", "stove"))
    argv[-1] = "flask"
    main(argv)
    assert result_of(tmp_path / "captions_eval_results.json")["overall_metrics"]["variant"] != variant
    for flag, value in (("--variant", "clean"), ("--dataset", "nocaps")):
        assert "leave --dataset and --variant out" in error_of(main, capsys, *argv, flag, value)
    assert "--truth: object 'dog' is no category" in error_of(main, capsys, *argv[:-1], "dog")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected a JSON object, found a list"),
        ("{}", "no category there; expected at least one"),
        ('{"a": "b"}', "a is 'b'; expected a list of texts"),
        ('{"a": ["b"], "c": ["B "]}', "'b' stands for 'a' and for 'c'; expected one of them"),
        ('{"a": ["b c d"]}', "'b c d' of 'a': expected one word or two"),
        ('{"a": [""]}', "'' of 'a': expected one word or two"),
    ],
)
def test_what_is_no_vocabulary(text, message, tmp_path, capsys):
    path = tmp_path / "words.json"
    path.write_text(text)
    captions = write_rows(tmp_path / "captions.jsonl", [{"image_id": 1, "text": "A dog."}])
    error = error_of(main, capsys, "--captions", captions, "--synonyms", path, "--truth", "a")
    assert message in error and error.count("\n") == 1


def test_annotations_of_a_vocabulary_of_ones_own(tmp_path, capsys):
    """COCO's layout with other categories: instances, and what the reference captions name."""
    rows = [{"image_id": 1, "text": "A dog and a cat."}, {"image_id": 2, "text": "Two buses."}]
    captions = write_rows(tmp_path / "captions.jsonl", rows)
    folder, words = write_coco(tmp_path / "annotations"), tmp_path / "words.json"
    argv = ["--captions", str(captions), "--annotations", str(folder), "--synonyms", str(words)]
    words.write_text('{"dog": ["cat"], "man": []}')
    assert "expected one of --synonyms" in error_of(main, capsys, *argv)
    words.write_text('{"dog": ["cat"], "bus": [], "man": []}')
    main(argv)
    first, second = result_of(tmp_path / "captions_eval_results.json")["sentences"]
    assert first["mscoco_hallucinated_words"] == [] and "man" in first["mscoco_gt_words"]
    assert second["mscoco_non_hallucinated_words"] == [["buses", "bus"]]


def test_names_of_files_are_ids_as_they_are(tmp_path, capsys):
    """Photos whose names end with the same number are two; a number in a name counts where only that is known."""
    rows = [{"image": "IMG_0001.jpg", "text": "A dog."}, {"image": "DSC_0001.jpg", "text": "A cat."}]
    path = write_rows(tmp_path / "a.jsonl", rows)
    assert "--truth is for one image, here are 2" in error_of(main, capsys, "--captions", path, "--truth", "cup")
    shown = [{"image_id": "IMG_0001.jpg", "objects": ["dog"]}, {"image_id": "DSC_0001.jpg", "objects": ["cup"]}]
    objects = write_rows(tmp_path / "o.jsonl", shown)
    main(["--captions", str(path), "--objects", str(objects), "--out", str(tmp_path / "names.json")])
    sentences = json.loads((tmp_path / "names.json").read_text())["sentences"]
    assert [entry["image_id"] for entry in sentences] == ["IMG_0001.jpg", "DSC_0001.jpg"]
    assert [entry["metrics"]["CHAIRs"] for entry in sentences] == [0, 1]
    path = write_rows(tmp_path / "b.jsonl", [{"image": "COCO_val2014_000000000042.jpg", "caption": "A dog."}])
    objects = write_rows(tmp_path / "o.jsonl", [{"image_id": 42, "objects": ["dog"]}])
    main(["--captions", str(path), "--objects", str(objects), "--out", str(tmp_path / "numbers.json")])
    [entry] = json.loads((tmp_path / "numbers.json").read_text())["sentences"]
    assert entry["image_id"] == 42 and entry["metrics"]["CHAIRs"] == 0
