"""HALC's parts: boxes by hand, contrast by loops, words by a table, detectors and scorers on random models."""

import json
import math
import random
from random import Random

import pytest
import torch
from PIL import Image

from llava_hh.baselines.halc import PRESETS, HalcSettings
from llava_hh.baselines.halc.detector import GroundingDino, MiniDetector, distinct_boxes, load_detector, overlap
from llava_hh.baselines.halc.scorer import ImageTextMatcher, MiniScorer, load_scorer
from llava_hh.baselines.halc.windows import contrast_windows, crop, expand, smallest, windows_around
from llava_hh.baselines.halc.words import added_text, begins_word, checked_word
from llava_hh.mini.world import CATEGORIES, render, sample_scene
from tests.support.tiny_llava15 import llava_tokenizer
from tests.support.tiny_matchers import save_tiny_blip, save_tiny_clip, save_tiny_dino


def test_windows_by_hand():
    box = (0.4, 0.5, 0.6, 0.9)
    assert expand(box, 0.5) == pytest.approx((0.35, 0.4, 0.65, 1.0))
    small, own, large, larger = windows_around(box, 0.6)
    assert own == box
    assert small == pytest.approx((0.46, 0.62, 0.54, 0.78))
    assert large == pytest.approx((0.34, 0.38, 0.66, 1.0))  # cut off below
    assert larger == pytest.approx((0.244, 0.194, 0.756, 1.0))
    assert windows_around(box, 2)[0] == pytest.approx((0.48, 0.66, 0.52, 0.74))  # shrinks by 0.8 at most
    assert smallest([(0, 0, 1, 1), (0, 0, 0.5, 0.1), (0, 0, 0.2, 0.2)]) == (0, 0, 0.2, 0.2)


def test_crops_by_hand():
    image = Image.new("RGB", (10, 20))
    image.paste((255, 0, 0), (2, 4, 5, 10))
    part = crop(image, (0.2, 0.2, 0.5, 0.5))
    assert part.size == (3, 6) and part.getcolors() == [(18, (255, 0, 0))]
    assert crop(image, (1.0, 1.0, 1.0, 1.0)).size == (1, 1)


def test_distinct_boxes_by_hand():
    first, beside = (0.0, 0.0, 0.4, 0.4), (0.2, 0.0, 0.6, 0.4)
    assert overlap(first, beside) == pytest.approx(1 / 3)
    assert overlap(first, (0.5, 0.5, 1, 1)) == 0
    within, tiny = (0.0, 0.0, 0.4, 0.3), (0.9, 0.9, 0.95, 0.95)  # 3/4 of the first; too small
    assert distinct_boxes([first, within, beside, tiny], min_area=0.01, iou=0.6) == [first, beside]


def slow_candidates(logits: list[list[float]], n_candidates: int, weight: float) -> list[int]:
    def probs(row):
        total = sum(math.exp(value) for value in row)
        return [math.exp(value) / total for value in row]

    found = []
    for small in range(4):
        for large in range(small + 1, 4):
            distance = 0.0
            for p, q in zip(probs(logits[small]), probs(logits[large]), strict=True):
                m = (p + q) / 2
                if m:
                    distance += 0.5 * m * math.log(m / p) + 0.5 * m * math.log(m / q)
            found.append((distance, small, large))
    tokens = []
    for _, small, large in sorted(found, reverse=True)[: n_candidates // 2]:
        for own, other in ((large, small), (small, large)):
            scores = [a - weight * b if a > -math.inf else a for a, b in zip(logits[own], logits[other], strict=True)]
            tokens.append(scores.index(max(scores)))
    return tokens


@pytest.mark.parametrize("n_candidates", [2, 4, 12])
@pytest.mark.parametrize("weight", [0.0, 0.05, 1.5])
def test_candidates_equal_loops(n_candidates, weight):
    for seed in range(5):
        logits = 3 * torch.randn(4, 30, generator=torch.Generator().manual_seed(seed))
        logits[:, [3, 17]] = -torch.inf  # suppressed
        assert contrast_windows(logits, n_candidates, weight) == slow_candidates(logits.tolist(), n_candidates, weight)


@pytest.mark.parametrize(
    ("text", "clean", "released"),
    [(" fork", True, True), ("s", False, False), (".", True, True), (",", True, False), ("fork", False, False)],
)
def test_where_words_begin(text, clean, released):
    assert begins_word(text, "clean") is clean
    assert begins_word(text, "released") is released


def test_added_text_of_llama_pieces():
    tokenizer = llava_tokenizer()
    ids = tokenizer("a polite user", add_special_tokens=False).input_ids
    added = [added_text(tokenizer, ids[:place], token) for place, token in enumerate(ids)]
    assert "".join(added) == "a polite user"
    assert [place for place, text in enumerate(added) if begins_word(text, "clean")] == [
        place for place, text in enumerate(added) if text.startswith(" ")
    ]
    assert len(added) == 4 and added[1:3] == [" pol", "ite"]


@pytest.mark.parametrize(
    ("caption", "word", "clean", "released"),
    [
        ("There is a fork", " fork", "fork", "fork"),
        ("There are two forks", " forks", "forks", "fork"),
        ("There is a fork,", " fork,", "fork", None),
        ("A dog is running", " running", None, None),
        ("It is red", " red", None, None),
        ("A picture of a bear", " bear", "bear", None),  # the tagger takes it for a verb
        ("and", " and", None, None),
        (",", ",", None, None),
        ("", "", None, None),
    ],
)
def test_which_words_are_checked(caption, word, clean, released):
    assert checked_word(caption, word, HalcSettings(), Random(0)) == clean
    assert checked_word(caption, word, HalcSettings(variant="released"), Random(0)) == released


def test_word_lists_and_chance():
    settings = HalcSettings(exempt_words=("cat", "sink"), always_words=("sink", "run"), skip_rate=1)
    assert checked_word("a cat", " cat", settings, Random(0)) is None
    assert checked_word("they run", " run", settings, Random(0)) == "run"
    assert checked_word("a sink", " sink", settings, Random(0)) == "sink"
    half, rng = HalcSettings(skip_rate=0.5), Random(3)
    checked = sum(checked_word("a dog", " dog", half, rng) is not None for _ in range(200))
    assert 70 < checked < 130
    assert (PRESETS["halc_repo"].skip_rate, PRESETS["halc_clean"].skip_rate) == (0.5, 0)
    assert len(PRESETS["halc_repo"].exempt_words) == 28 and not PRESETS["halc_clean"].exempt_words


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("detector", ""),
        ("base", "dola"),
        ("candidates", 3),
        ("candidates", 14),
        ("expand_ratio", 0),
        ("contrast_weight", -1),
        ("box_threshold", 0),
        ("skip_rate", 1.1),
        ("max_boxes", 0),
        ("exempt_words", "cat"),
        ("always_words", (1,)),
        ("variant", "repo"),
        ("seed", -1),
    ],
)
def test_wrong_settings_are_named(field, value):
    with pytest.raises(ValueError, match=f"HalcSettings: {field} must be"):
        HalcSettings(**{field: value})


def noise_image(seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    rng = random.Random(seed)
    return Image.frombytes("RGB", size, bytes(rng.randrange(256) for _ in range(3 * size[0] * size[1])))


def test_grounding_dino_equals_its_raw_outputs(tmp_path):
    save_tiny_dino(tmp_path)
    image = noise_image(1)
    probe = GroundingDino(tmp_path, 0.5, 0.5, 0, 1)
    inputs = probe.processor(images=image, text="cat.", return_tensors="pt")
    with torch.no_grad():
        outputs = probe.model(**inputs)
    probs = outputs.logits[0].sigmoid()  # query token
    best = probs.amax(-1)
    threshold = best.sort().values[-8:-6].mean().item()  # 7 queries are above
    rows = sorted((row for row in range(len(best)) if best[row] > threshold), key=lambda row: -best[row])
    expected = []
    for row in rows:
        x, y, width, height = outputs.pred_boxes[0, row].tolist()
        ends = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        expected.append(tuple(round(min(max(end, 0), 1), 3) for end in ends))
    dino = GroundingDino(tmp_path, threshold, 1e-6, 0.01, 0.6)
    assert len(rows) == 7
    assert dino.detect(image, "Cat") == distinct_boxes(expected, 0.01, 0.6)
    assert GroundingDino(tmp_path, threshold, 1.0, 0.01, 0.6).detect(image, "Cat") == []  # no word of a phrase left
    settings = HalcSettings(detector=str(tmp_path), box_threshold=threshold, text_threshold=1e-6)
    assert load_detector(settings).detect(image, "cat") == dino.detect(image, "cat")


@pytest.mark.parametrize("kind", ["blip", "clip"])
def test_scores_equal_single_forwards(kind, tmp_path):
    {"blip": save_tiny_blip, "clip": save_tiny_clip}[kind](tmp_path)
    scorer, image = load_scorer(HalcSettings(scorer=str(tmp_path))), noise_image(2)
    texts = ["a cat", "the dog and a vase of a table", "fork"]
    scores = scorer.score(image, texts)
    for text, score in zip(texts, scores, strict=True):
        inputs = scorer.processor(images=image, text=text, return_tensors="pt")
        with torch.no_grad():
            if kind == "blip":
                expected = scorer.model(**inputs, use_itm_head=True).itm_score[0].softmax(-1)[1]
            else:
                towers = (scorer.model.get_text_features(inputs["input_ids"], inputs["attention_mask"]),)
                towers += (scorer.model.get_image_features(inputs["pixel_values"]),)
                text_vector, image_vector = (getattr(each, "pooler_output", each)[0] for each in towers)
                expected = torch.cosine_similarity(text_vector, image_vector, 0) * scorer.model.logit_scale.exp()
        assert score == pytest.approx(float(expected), abs=1e-5)
    assert len({round(score, 4) for score in scores}) == 3


@pytest.mark.parametrize("kind", ["blip", "clip"])
@pytest.mark.parametrize("limited", [True, False], ids=["tokenizer's limit", "model's limit"])
def test_long_captions_are_scored_by_their_end(kind, limited, tmp_path):
    """Both models read 40 tokens, two of them marks: the sentence of the word, or its last 38 words."""
    {"blip": save_tiny_blip, "clip": save_tiny_clip}[kind](tmp_path)
    if not limited:
        settings = json.loads((tmp_path / "tokenizer_config.json").read_text()) | {"model_max_length": None}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    scorer, image = load_scorer(HalcSettings(scorer=str(tmp_path))), noise_image(3)
    assert scorer.longest == 40
    before = " ".join(["the dog and a cat of the table"] * 6)  # 48 words
    fitting = " ".join(before.split()[:30])
    words = ["fork", "vase", "person"]
    cases = {
        f"{before}. the cat and a ": "the cat and a ",
        f"{before}.\n\nthe cat and a ": "the cat and a ",
        f"a dog. {before} a ": " ".join(before.split()[-36:]) + " a ",
        f"{fitting}. a ": f"{fitting}. a ",  # there is room for all of it
    }
    for given, read in cases.items():
        scores = scorer.score(image, [given + word for word in words])
        assert scores == pytest.approx([scorer.score(image, [read + word])[0] for word in words], abs=1e-5)
        assert len({round(score, 4) for score in scores}) == 3
        assert scorer.score(image, [given + word for word in words[::-1]]) == pytest.approx(scores[::-1], abs=1e-5)
    one_fits = [" ".join(["cat"] * 36) + ". dog", " ".join(["cat"] * 36) + ". a dog"]  # 40 and 41 tokens
    assert scorer.score(image, one_fits) == pytest.approx(scorer.score(image, ["dog", "a dog"]), abs=1e-5)


def test_minis_eye():
    eye, scorer, rng = MiniDetector(), MiniScorer(), random.Random(7)
    right = shown = wrong = 0
    for _ in range(12):
        scene = sample_scene(rng, together=0.45)
        image = render(scene, rng)
        for category, (x, y, width, height) in scene.annotated():
            boxes = eye.detect(image, category)
            shown += 1
            centre = ((x + width / 2) / image.width, (y + height / 2) / image.height)
            right += any(box[0] <= centre[0] <= box[2] and box[1] <= centre[1] <= box[3] for box in boxes)
        absent = [category for category in CATEGORIES if category not in scene.categories]
        wrong += sum(bool(eye.detect(image, category)) for category in absent)
        there, missing = scorer.score(image, [f"a {scene.categories[0]}", f"a {scene.categories[0]} and a {absent[0]}"])
        assert there - missing in (0, 1, 2)
    assert right > 0.9 * shown and wrong < 0.2 * shown
    assert eye.detect(image, "scene") is None
    assert eye.detect(image, scene.categories[0] + "s") == eye.detect(image, scene.categories[0])
    assert scorer.score(image, ["nothing at all"]) == [0.0]


def test_missing_and_wrong_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no config.json there; get IDEA-Research/grounding-dino-tiny"):
        load_detector(HalcSettings(detector=str(tmp_path / "nowhere")))
    save_tiny_dino(tmp_path / "dino")
    with pytest.raises(ValueError, match="a grounding-dino; expected a BLIP"):
        ImageTextMatcher(tmp_path / "dino")
    with pytest.raises(FileNotFoundError, match="no config.json there; get Salesforce/blip-itm-base-coco"):
        load_scorer(HalcSettings(scorer=str(tmp_path / "nowhere")))
