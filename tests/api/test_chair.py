"""`hh.chair`: CHAIR of captions in Python is that of the verb `score chair`."""

import json

import pytest

import llava_hh as hh
from tests.support.verbs import score_chair

TEXTS = ["A dog and a purse.", "Two cats near a bear. Cats!", "Nothing."]
TRUTH = [["dog"], ["Cat", "sofa"], []]


def test_chair_equals_the_scripts(tmp_path):
    captions, objects, out = (tmp_path / name for name in ("c.jsonl", "o.jsonl", "out.json"))
    captions.write_text("".join(json.dumps({"image_id": n, "text": text}) + "\n" for n, text in enumerate(TEXTS)))
    objects.write_text("".join(json.dumps({"image_id": n, "objects": own}) + "\n" for n, own in enumerate(TRUTH)))
    for variant in ("hh", "clean"):
        flags = ["--captions", captions, "--objects", objects, "--out", out, "--variant", variant]
        score_chair([str(flag) for flag in flags])
        expected = json.loads(out.read_text())
        found = hh.chair(TEXTS, TRUTH, variant=variant)
        sentences = found.pop("sentences")
        overall = expected["overall_metrics"]
        assert found == {name: overall[name] for name in found} and {*overall} - {*found} == {"drop_incomplete"}
        for own, one in zip(sentences, expected["sentences"], strict=True):
            assert own == {name: one[name] for name in own}
    by_image = hh.chair(dict(zip("abc", TEXTS, strict=True)), dict(zip("abc", TRUTH, strict=True)))
    assert by_image["CHAIRi"] == hh.chair(TEXTS, TRUTH)["CHAIRi"] == 2 / 5


def test_synonyms_of_ones_own():
    texts, truth = ["A mug and a coffee pot.", "A bear."], [["mug"], ["teddy bear"]]
    with pytest.raises(ValueError, match="image 0: object 'mug' is no COCO category, and no synonym of one"):
        hh.chair(texts, truth)
    own = {"mug": "cup", "Coffee  Pot": "bottle", "bear": "teddy bear"}
    found = hh.chair(texts, truth, synonyms=own)
    assert [entry["mscoco_hallucinated_words"] for entry in found["sentences"]] == [[["coffee pot", "bottle"]], []]
    assert found["CHAIRi"] == 1 / 3
    assert hh.chair(["a bear"], [["bear"]])["CHAIRi"] == 0  # what was read before is not changed
    for wrong, words in (({"mug": "mugs"}, "expected one of the 80"), ({"a b c": "cup"}, "expected one word or two")):
        with pytest.raises(ValueError, match=words):
            hh.chair(texts, truth, synonyms=wrong)


@pytest.mark.parametrize(
    ("texts", "truth", "words"),
    [
        ([], [], "no captions to score"),
        ("a dog", [["dog"]], "captions is the text 'a dog'; expected a list"),
        (["a dog"], [["dog"], []], "1 captions but 2 images in truth"),
        ({"a": "a dog"}, {"b": []}, "image 'a' has a caption, but no entry in truth"),
        (["a dog"], ["dog"], "truth of image 0 is 'dog'; expected a list of names"),
    ],
)
def test_wrong_captions_and_truth(texts, truth, words):
    with pytest.raises(ValueError, match=words):
        hh.chair(texts, truth)
