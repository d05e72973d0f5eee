import math
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from llava_hh.attention.hooks import intervene
from llava_hh.attention.interventions import DeactivateText
from llava_hh.baselines import vcd
from llava_hh.baselines.sampling import draw_tokens, sample_generator
from llava_hh.baselines.twins import entries_per_row
from llava_hh.baselines.vcd import (
    PRESETS,
    VCD_PAPER,
    VCD_REPO,
    VcdSettings,
    add_noise,
    contrast,
    noise_scales,
)
from llava_hh.heads import Head
from tests.support.decoding import (
    PROCESSOR,
    as_batch,
    as_lvlm,
    assert_ends_and_suppressed_ids,
    double,
    eight_rows,
    generated,
    ids_of,
    last_logits,
    single_rows,
    slow_decode,
)
from tests.support.slow_decoders import slow_noise
from tests.support.tiny import TinyBatch, llava_batch
from tests.support.tiny_minigpt4 import also_of_minigpt4

N_TOKENS = 4
GREEDY = VcdSettings(do_sample=False, noise_step=900)
WILD = VcdSettings(temperature=1.5, noise_step=999, beta=0.02, top_k=40, top_p=0.95, seed=3)
SPACES = ["normalized", "raw_unnormalized"]


def decode(model, batch, settings, n_tokens=N_TOKENS, ids=None, processor=PROCESSOR):
    return vcd.decode(as_lvlm(model, processor), as_batch(batch, ids), settings, n_tokens)


@pytest.mark.parametrize(
    ("step", "signal", "noise"), [(500, 0.8630171, 0.5051747), (999, 0.2850424, 0.9585149), (0, 0.9999777**0.5, None)]
)
def test_noise_schedule(step, signal, noise):
    scales = noise_scales(step)
    assert scales[0] == pytest.approx(signal, abs=2e-7)
    assert scales[1] == pytest.approx(math.sqrt(1 - scales[0] ** 2), abs=1e-5)
    if noise is not None:
        assert scales[1] == pytest.approx(noise, abs=2e-7)


@pytest.mark.parametrize("space", SPACES)
def test_noise_is_the_slow_one(space):
    settings = VcdSettings(noise_space=space, noise_step=700)
    pixels = torch.rand(1, 3, 4, 4)
    noised = add_noise(pixels, sample_generator(settings.seed, "a", "noise"), settings, PROCESSOR)
    assert_close(noised, slow_noise(pixels, "a", settings), atol=1e-5, rtol=0)
    other = add_noise(pixels, sample_generator(settings.seed, "b", "noise"), settings, PROCESSOR)
    assert not torch.equal(noised, other)


@also_of_minigpt4
@pytest.mark.parametrize("space", SPACES)
def test_scores_equal_full_forwards(llava, space):
    """Every token is the argmax of the contrast of two whole uncached forwards, the plausible set found by a loop."""
    model, batch = double(llava), eight_rows(torch.float64)
    settings = replace(GREEDY, noise_space=space)

    def choose(row, alone, answer):
        z = last_logits(model, alone, answer).tolist()
        other = z
        if "pixel_values" in alone.inputs:
            noised = slow_noise(alone.inputs["pixel_values"], ids_of(8)[row], settings)
            other = last_logits(model, alone, answer, pixel_values=noised).tolist()
        plausible = [w for w in range(len(z)) if z[w] >= math.log(settings.beta) + max(z)]
        return max(plausible, key=lambda w: (1 + settings.alpha) * z[w] - settings.alpha * other[w])

    rows = decode(model, batch, settings)
    assert rows == slow_decode(model, batch, N_TOKENS, choose)
    plain = generated(model, batch, N_TOKENS)
    images = batch.image_mask.any(1).tolist()
    assert [row for row, image in zip(rows, images, strict=True) if not image] == [
        row for row, image in zip(plain, images, strict=True) if not image
    ]
    assert sum(row != own for row, own in zip(rows, plain, strict=True)) >= 3


@pytest.mark.parametrize("settings", [replace(GREEDY, alpha=0, beta=1e-6), replace(WILD, beta=1.0)])
def test_settings_that_do_nothing_are_greedy(llava, settings):
    """alpha 0 leaves the logits; beta 1 leaves the most likely token, whatever is drawn."""
    batch = eight_rows()
    assert decode(llava, batch, settings) == generated(llava, batch, N_TOKENS)


@pytest.mark.parametrize("settings", [GREEDY, VCD_REPO, WILD])
def test_a_batch_equals_its_rows_alone(llava, settings):
    model, batch = double(llava), eight_rows(torch.float64)
    together = decode(model, batch, settings)
    assert together == [decode(model, alone, settings, ids=own)[0] for alone, own in single_rows(batch)]
    assert together == decode(model, batch, settings)


def test_draws_depend_on_seed_and_sample(llava):
    batch = eight_rows()
    rows = decode(llava, batch, WILD)
    assert rows != decode(llava, batch, replace(WILD, seed=4))
    twice = llava_batch([[3], [3]])
    twice.inputs["input_ids"][1] = twice.inputs["input_ids"][0]
    first, second = decode(llava, twice, WILD, ids=["x", "x"])
    assert first == second
    first, second = decode(llava, twice, WILD, ids=ids_of(2))
    assert first != second


def test_draws_follow_the_distribution(monkeypatch):
    scores = torch.tensor([[0.5, -torch.inf, 1.5, 0.0, -torch.inf]])
    generators = [sample_generator(0, number, "tokens") for number in range(4000)]
    counts = Counter(draw_tokens(scores.expand(4000, -1), generators).tolist())
    for token, share in enumerate(scores[0].softmax(0).tolist()):
        assert counts[token] / 4000 == pytest.approx(share, abs=0.03 if share else 0)
    monkeypatch.setattr(torch, "rand", lambda n, generator: torch.zeros(n))
    assert draw_tokens(scores.flip(-1), generators[:1]).tolist() == [1]  # the first token that is possible at all
    assert sample_generator(0, 7, "a").initial_seed() == sample_generator(0, "7", "a").initial_seed()
    assert sample_generator(0, 7, "a").initial_seed() != sample_generator(0, 7, "b").initial_seed()


def test_contrast_by_hand():
    clean, noised = torch.tensor([[2.0, 1.5, -1.0, -torch.inf]]), torch.tensor([[2.5, 0.5, -9.0, -torch.inf]])
    expected = torch.tensor([[1.5, 2.5, -torch.inf, -torch.inf]])
    assert torch.equal(contrast(clean, noised, 1.0, 0.1), expected)
    assert contrast(clean, noised, 1.0, 0.01)[0, 2] == 7.0  # now plausible, and the best


def test_ends_and_suppressed_ids_are_honoured(llava):
    assert_ends_and_suppressed_ids(llava, lambda batch: decode(llava, batch, GREEDY))


def test_an_open_intervention_sees_both_images(llava):
    """The twins stand as beams do, so AD-HH edits the row it belongs to, with and without a batch."""
    model, batch = double(llava), eight_rows(torch.float64)
    edits = [DeactivateText([Head(1, 0), Head(2, 3), Head(3, 1)], 0.3)]
    with intervene(model, batch.image_mask, edits):
        together = decode(model, batch, GREEDY)
    for row, (alone, own) in enumerate(single_rows(batch)):
        with intervene(model, alone.image_mask, edits):
            assert decode(model, alone, GREEDY, ids=own) == [together[row]]
    assert together != decode(model, batch, GREEDY)


def test_images_are_dealt_to_rows():
    mask = torch.zeros(4, 12, dtype=torch.bool)
    mask[0, 2:6] = mask[2, :8] = True
    assert entries_per_row(mask, [1, 0, 2, 0], [1, 1, 1]) == [1, 0, 2, 0]
    assert entries_per_row(mask, [1, 0, 1, 0], [1, 1]) == [1, 0, 1, 0]  # of different lengths
    assert entries_per_row(mask, [1, 0, 1, 0], [5, 9]) == [5, 0, 9, 0]  # patches
    assert entries_per_row(mask, [1, 0, 1, 0], [1] * 6) == [2, 0, 4, 0]  # tiles
    with pytest.raises(
        NotImplementedError, match=r"5 images cannot be dealt to rows of \[4, 0, 8, 0\] image positions"
    ):
        entries_per_row(mask, [1, 0, 1, 0], [1] * 5)


def test_rows_of_two_images_are_noised_whole(gqa_llava):
    batch = llava_batch([[2, "image", 3, "image"], [4], ["image", 1]])
    twins = vcd.with_noised_twins(as_lvlm(gqa_llava), as_batch(batch), GREEDY)
    pixels = batch.inputs["pixel_values"]
    assert torch.equal(twins["pixel_values"][[0, 1, 4]], pixels)
    expected = [slow_noise(part, f"sample {row}", GREEDY) for part, row in ((pixels[:2], 0), (pixels[2:], 2))]
    assert_close(twins["pixel_values"][[2, 3, 5]], torch.cat(expected), atol=1e-5, rtol=0)
    assert torch.equal(twins["input_ids"][1::2], batch.inputs["input_ids"])
    assert len(decode(gqa_llava, batch, GREEDY)) == 3


def test_presets():
    assert VcdSettings(1.0, 0.1, 500, True, 1.0, None, None, "normalized") == VCD_PAPER
    assert VcdSettings(0.5, 0.1, 500, True, 1.0, 50, 0.9, "raw_unnormalized") == VCD_REPO
    assert PRESETS == {"vcd_paper": VCD_PAPER, "vcd_repo": VCD_REPO}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"alpha": -1}, "alpha must be a number of at least 0, not -1"),
        ({"alpha": math.nan}, "alpha must be a number of at least 0, not nan"),
        ({"alpha": 1e39}, "alpha must be at most a million, not 1e\\+39"),
        ({"beta": 0}, "beta must be above 0 and at most 1, not 0"),
        ({"beta": "0.1"}, "beta must be above 0 and at most 1, not '0.1'"),
        ({"noise_step": 1000}, "noise_step must be a whole number from 0 to 999, not 1000"),
        ({"noise_step": 5.0}, "noise_step must be a whole number from 0 to 999, not 5.0"),
        ({"do_sample": 1}, "do_sample must be True or False, not 1"),
        ({"temperature": 0}, "temperature must be a number above 0, not 0"),
        ({"top_k": 0}, "top_k must be None or a whole number of at least 1, not 0"),
        ({"top_p": 1.5}, "top_p must be None or above 0 and at most 1, not 1.5"),
        ({"noise_space": "raw"}, "noise_space must be 'normalized' or 'raw_unnormalized', not 'raw'"),
        ({"seed": -1}, "seed must be a whole number of at least 0, not -1"),
    ],
)
def test_wrong_settings_are_one_line(wrong, words):
    with pytest.raises(ValueError, match=f"^VcdSettings: {words}$"):
        VcdSettings(**wrong)


def test_wrong_input_is_one_line(gqa_llava):
    batch = eight_rows()
    with pytest.raises(ValueError, match="needs a sample id for each of 8 rows, not 2"):
        decode(gqa_llava, batch, GREEDY, ids=ids_of(2))
    with pytest.raises(NotImplementedError, match="which the inputs lack; they hold input_ids, attention_mask"):
        ids = {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
        decode(gqa_llava, TinyBatch(ids, batch.image_mask), GREEDY, 3)
    with pytest.raises(NotImplementedError, match="undoes normalisation, which NoneType does not do"):
        decode(gqa_llava, batch, VCD_REPO, processor=SimpleNamespace(image_processor=None))
