"""AGLA: tokens by whole passes and masks by loops, GradCAM by finite differences, maps over pictures of any shape."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from llava_hh.attention.hooks import is_edited
from llava_hh.baselines import agla
from llava_hh.baselines.agla import AglaSelfSettings, AglaSettings, highest, over_picture
from llava_hh.baselines.avisc import attention_on_image
from llava_hh.baselines.gradcam import gradcam
from llava_hh.baselines.halc.scorer import named_scorer
from llava_hh.baselines.sampling import draw_tokens, sample_generator
from llava_hh.decoding.making import Material
from llava_hh.decoding.method import CannotDecode, generate_greedily
from llava_hh.decoding.reading import method_of
from llava_hh.files.module_hooks import hooked
from llava_hh.models.image_grid import WHOLE, central_square, padded_square
from llava_hh.models.lvlm import load_lvlm
from tests.support.questions import IMAGES, QUESTIONS, SHOWN, draw_image
from tests.support.slow_agla import attention_by_hand, gradcam_by_hand, masked_by_hand, smooth_by_hand
from tests.support.tiny_checkpoint import save_tiny_checkpoint
from tests.support.tiny_llava15 import save_tiny_llava15
from tests.support.tiny_matchers import save_tiny_blip, save_tiny_clip
from tests.support.tiny_minigpt4 import save_tiny_parts
from tests.support.tiny_newer import FAMILIES, save_tiny_family

N_TOKENS, IDS = 5, ["a", "b", "c", "d"]
PICTURES = [draw_image(0, 32, 16), draw_image(1, 8, 16), None, draw_image(2, 16, 16)]
SQUARE = {"llava15": padded_square, "chameleon": central_square}


@pytest.fixture(scope="module")
def lvlm_of(tmp_path_factory):
    loaded = {}

    def load(name):
        if name not in loaded:
            folder = tmp_path_factory.mktemp("families") / name
            savers = {"llava15": partial(save_tiny_llava15, side=56), "llava": save_tiny_checkpoint}
            savers["minigpt4"] = lambda folder: save_tiny_parts(folder.parent)
            savers.get(name, partial(save_tiny_family, name))(folder)
            loaded[name] = load_lvlm(folder)
        return loaded[name]

    return load


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blip")
    save_tiny_blip(folder, n_blocks=3)
    return str(folder)


def masks_by_hand(lvlm, settings):
    for image, question in zip(PICTURES, QUESTIONS, strict=True):
        if image is None:
            yield None
            continue
        box = SQUARE.get(lvlm.path.name, lambda _: WHOLE)(image.size)
        if isinstance(settings, AglaSettings):
            values, share = gradcam_by_hand(named_scorer(settings.matcher), image, question, settings.block)
            box = WHOLE
        else:
            values, share = attention_by_hand(lvlm, image, question), settings.kept
        side = math.isqrt(len(values))
        yield masked_by_hand(image, np.reshape(values, (side, side)), share, box)


@torch.no_grad()
def last_logits(lvlm, image, question, answer):
    """After a whole uncached pass of one row; -inf where the model says nothing."""
    batch = lvlm.encode([image], [question], [answer])
    logits = lvlm.model(**batch.inputs, use_cache=False).logits[0, -1]
    logits[lvlm.model.generation_config.suppress_tokens or []] = -torch.inf
    return logits


SELF = [AglaSelfSettings(4.0, 0.01, False, kept=0.4), AglaSelfSettings(3.0, 0.02, True, 3, kept=0.6)]
BY_BLIP = [AglaSettings(6.0, 0.01, False, block=1), AglaSettings(3.0, 0.02, True, 5, block=0)]
CASES = [("llava", each) for each in SELF + BY_BLIP] + [("llava15", SELF[0]), ("chameleon", SELF[0])]
CASES += [("qwen2_5_vl", each) for each in BY_BLIP]


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_tokens_follow_from_two_uncached_generations(name, settings, lvlm_of, blip):
    lvlm = lvlm_of(name)
    if isinstance(settings, AglaSettings):
        settings = replace(settings, matcher=blip)
    batch = lvlm.encode(PICTURES, QUESTIONS, sample_ids=IDS)
    rows, ends = agla.decode(lvlm, batch, settings, N_TOKENS), lvlm.end_token_ids
    masked = masks_by_hand(lvlm, settings)
    for image, other, question, sample, row in zip(PICTURES, masked, QUESTIONS, IDS, rows, strict=True):
        generator, answer = sample_generator(settings.seed, sample, "tokens"), []
        assert image is None or other.tobytes() != image.tobytes()
        while len(answer) < N_TOKENS:
            shown = last_logits(lvlm, image, question, answer)
            scores = shown.clone()
            if image is not None:
                scores += settings.alpha * last_logits(lvlm, other, question, answer)
            scores[shown < shown.max() + math.log(settings.beta)] = -torch.inf
            token = draw_tokens(scores[None], [generator]).item() if settings.do_sample else scores.argmax().item()
            if token in ends:
                break
            answer.append(token)
        assert row == answer
    assert rows != [answer.token_ids for answer in generate_greedily(lvlm, batch, N_TOKENS)]
    given = zip(PICTURES, QUESTIONS, IDS, strict=True)
    alone = [lvlm.encode([image], [question], sample_ids=[sample]) for image, question, sample in given]
    assert rows == [agla.decode(lvlm, one, settings, N_TOKENS)[0] for one in alone]
    assert not is_edited(lvlm.model) and torch.is_grad_enabled()


@pytest.mark.parametrize("name", ["llava", "llava15", "chameleon", "qwen2_5_vl"])
def test_nothing_added_and_nothing_masked_are_greedy(name, lvlm_of, blip):
    lvlm = lvlm_of(name)
    batch = lvlm.encode(PICTURES, QUESTIONS, sample_ids=IDS)
    greedy = [answer.token_ids for answer in generate_greedily(lvlm, batch, N_TOKENS)]
    settings = [AglaSettings(alpha=0, do_sample=False, matcher=blip, block=1)]
    if name != "qwen2_5_vl":
        settings += [AglaSelfSettings(alpha=0, do_sample=False), AglaSelfSettings(5.0, do_sample=False, kept=1)]
        for image, same in zip(PICTURES, agla.masked_by_attention(lvlm, batch, settings[-1]), strict=True):
            assert image is same is None or image.tobytes() == same.tobytes()
    for each in settings:
        assert agla.decode(lvlm, batch, each, N_TOKENS) == greedy


@pytest.mark.parametrize("name", [*FAMILIES, "minigpt4"])
def test_every_family_sees_the_masked_picture(name, lvlm_of, blip):
    lvlm, settings = lvlm_of(name), AglaSettings(9.0, 0.001, False, matcher=blip, block=1)
    images = SHOWN if name == "mllama" else IMAGES
    batch = lvlm.encode(images, QUESTIONS, sample_ids=IDS)
    rows = agla.decode(lvlm, batch, settings, N_TOKENS)
    alone = [lvlm.encode([image], [question]) for image, question in zip(images, QUESTIONS, strict=True)]
    assert rows == [agla.decode(lvlm, one, settings, N_TOKENS)[0] for one in alone]
    assert rows != [answer.token_ids for answer in generate_greedily(lvlm, batch, N_TOKENS)]


@pytest.mark.parametrize("name", ["llava", "chameleon"])
def test_attention_of_a_padded_batch_equals_loops(name, lvlm_of):
    lvlm = lvlm_of(name)
    batch = lvlm.encode(PICTURES, QUESTIONS)
    attended = attention_on_image(lvlm, batch).mean(0)
    for row, (image, question) in enumerate(zip(PICTURES, QUESTIONS, strict=True)):
        if image is not None:
            expected = attention_by_hand(lvlm, image, question)
            assert attended[row, batch.image_mask[row]].tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("block", [0, 1])
def test_gradcam_equals_finite_differences(blip, block):
    """In fp64: every entry of the block's cross-attention is moved up and down, and the match logit is read."""
    matcher, image, text = named_scorer(blip), draw_image(5, 40, 24), "is there a cat on the couch"
    matcher.model.double()
    inputs = matcher.processor(images=image, text=text, return_tensors="pt")
    inputs["pixel_values"] = inputs["pixel_values"].double()
    inputs["input_ids"][0, 0] = matcher.model.config.text_config.bos_token_id + 1
    dropout, seen = matcher.model.text_encoder.encoder.layer[block].crossattention.self.dropout, []

    @torch.no_grad()
    def match(*entry, by=0.0):
        def move(_, args):
            moved = args[0].clone()
            seen[:] = [args[0][0]]
            if entry:
                moved[(0, *entry)] += by
            return (moved,)

        with hooked([(dropout, move)], before=True):
            return matcher.model(**inputs).itm_score[0, 1].item()

    match()
    weights = seen[0]
    n_heads, n_tokens, n_patches = weights.shape
    assert (n_tokens, n_patches) == (9, 17)
    expected = []
    for patch in range(1, n_patches):
        total = 0.0
        for head in range(n_heads):
            for token in range(1, n_tokens - 1):
                slope = (match(head, token, patch, by=1e-5) - match(head, token, patch, by=-1e-5)) / 2e-5
                total += weights[head, token, patch].item() * max(slope, 0)
        expected.append(total / n_heads / (n_tokens - 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matcher, "processor", lambda **_: InDouble(inputs))
        values, _ = gradcam(matcher, image, text, block)
    assert values.shape == (4, 4) and values.max() > 0
    assert values.flatten().tolist() == pytest.approx(expected, rel=1e-4, abs=1e-9)
    matcher.model.float()
    in_single, cosine = gradcam(matcher, image, text, block)
    inputs = matcher.processor(images=image, text=text, return_tensors="pt")
    with torch.no_grad():
        assert cosine == pytest.approx(matcher.model(**inputs, use_itm_head=False).itm_score.item(), abs=1e-5)
    torch.testing.assert_close(in_single, values, rtol=1e-3, atol=1e-7)
    assert not dropout._forward_pre_hooks and torch.is_grad_enabled()


class InDouble(dict):
    def to(self, device):
        return self


def test_gradcam_of_a_text_that_is_too_long_or_empty(blip):
    matcher, image = named_scorer(blip), draw_image(6, 30, 30)
    words = ["cat", "dog", "and", "the"] * 15
    long, _ = gradcam(matcher, image, " ".join(words), 1)
    last, _ = gradcam(matcher, image, " ".join(words[-38:]), 1)  # of 40 tokens, two are marks
    torch.testing.assert_close(long, last)
    empty, _ = gradcam(matcher, image, "", 1)
    assert not empty.any()
    assert agla.blacked_out(image, empty, 0.5).tobytes() == image.tobytes()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [1e-6, 0.25, 0.5, 0.999, 1 - 1e-5, 1])
def test_what_is_kept_equals_sorting(seed, share):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 40, (13, 11)).astype(np.float32) if seed % 2 else rng.random((13, 11), dtype=np.float32)
    counted = rng.random((13, 11)) < 0.8
    ordered = sorted(values[counted].tolist(), reverse=True)
    index = math.floor(len(ordered) * share)
    least = ordered[index] if index < len(ordered) else ordered[-1]
    kept = highest(values, counted, share)
    for row in range(13):
        for column in range(11):
            assert kept[row, column] == (values[row, column] >= least)
    assert kept[counted].sum() >= min(index + 1, len(ordered))


@pytest.mark.parametrize("size", [(16, 16), (32, 16), (8, 24), (16, 12)])
@pytest.mark.parametrize("square", [lambda _: WHOLE, padded_square, central_square])
def test_maps_over_pictures_of_any_shape(size, square):
    values = np.random.default_rng(3).random((4, 4))
    box = square(size)
    smooth, covered = over_picture(values, box)
    expected, is_in = smooth_by_hand(values, box)
    assert np.array_equal(covered, is_in)
    np.testing.assert_allclose(smooth, expected, atol=2e-6)
    picture = draw_image(7, *size)
    made = agla.blacked_out(picture, torch.tensor(values), 0.5, box)
    assert made.tobytes() == masked_by_hand(picture, values, 0.5, box).tobytes()
    assert made.size == size


def test_where_the_map_is_high_stays():
    """A wide picture padded to a square: the upper and lower rows of tokens look at padding."""
    picture, values = Image.new("RGB", (60, 30), (9, 9, 9)), torch.zeros(4, 4)
    values[0] = 5.0
    values[1:3, 3] = 4.0
    made = np.asarray(agla.blacked_out(picture, values, 0.25, padded_square(picture.size)))
    assert made[10:20, 52:].all() and not made[10:, :40].any()


def test_a_picture_that_fits_loses_more(blip, monkeypatch):
    """A cosine of 1 keeps half, one of 0 or less all but the least."""
    image, shares = draw_image(8, 384, 384), {}
    values = torch.rand(24, 24, generator=torch.Generator().manual_seed(0))
    for cosine in (1.0, 0.4, 0.0, -0.7):
        monkeypatch.setattr(agla, "gradcam", lambda *_, cosine=cosine: (values, cosine))
        batch = type("Batch", (), {"images": [image, None], "prompts": ["a", "b"]})
        masked, none = agla.masked_by_matcher(batch, AglaSettings(matcher=blip))
        kept = (np.asarray(masked) != 0).any(-1) | (np.asarray(image) == 0).all(-1)
        shares[cosine] = int(kept.sum())
        assert none is None
    n = 384 * 384
    assert shares == {1.0: n // 2 + 1, 0.4: int(n * 0.8) + 1, 0.0: n - 1, -0.7: n - 1}


def test_what_cannot_be_is_one_line(lvlm_of, blip, tmp_path):
    lvlm, by_itself = lvlm_of("llava"), AglaSelfSettings()
    with pytest.raises(CannotDecode, match="which has answers already"):
        agla.decode(lvlm, lvlm.encode(IMAGES[:1], QUESTIONS[:1], [[40, 41]]), by_itself, N_TOKENS)
    qwen = lvlm_of("qwen2_5_vl")
    with pytest.raises(CannotDecode, match="where its image tokens look, which this family cannot say"):
        agla.decode(qwen, qwen.encode(IMAGES, QUESTIONS), by_itself, N_TOKENS)
    assert agla.decode(qwen, qwen.encode([None], ["describe"]), by_itself, 2)
    batch = lvlm.encode(IMAGES, QUESTIONS)
    save_tiny_clip(tmp_path / "clip")
    for name in ("mini", str(tmp_path / "clip")):
        with pytest.raises(ValueError, match=f"{name}: expected a BLIP image-text matcher, whose cross-attention"):
            agla.decode(lvlm, batch, AglaSettings(matcher=name), N_TOKENS)
    with pytest.raises(ValueError, match="block 6 of the matcher's text encoder, which has 0 to 2"):
        agla.decode(lvlm, batch, AglaSettings(matcher=blip), N_TOKENS)
    with pytest.raises(FileNotFoundError, match="nowhere: no config.json there"):
        agla.decode(lvlm, batch, AglaSettings(matcher=str(tmp_path / "nowhere")), N_TOKENS)
    with pytest.raises(ValueError, match="kept must be above 0 and at most 1, not 0"):
        AglaSelfSettings(kept=0)


def test_a_run_says_which_matcher_it_had(lvlm_of, blip):
    method = method_of(f'agla:matcher="{blip}",block=1', Material(lvlm_of("llava"))).method
    assert method.describe()["decoder"]["matcher"]["files"]
