import math

import pytest
import torch
from torch.testing import assert_close

from llava_hh.attention.interventions import BoostImageScores
from llava_hh.baselines import pai
from llava_hh.baselines.pai import PRESETS, PaiSettings, boosted_heads, guide, with_image_free_twins
from llava_hh.baselines.stepping import Stepper
from llava_hh.heads import Head
from tests.support.decoding import (
    as_batch,
    as_lvlm,
    assert_ends_and_suppressed_ids,
    double,
    eight_rows,
    generated,
    last_logits,
    single_rows,
    slow_decode,
)
from tests.support.eager_edits import eager_edits
from tests.support.slow_decoders import without_image
from tests.support.tiny import IMAGE_TOKEN, N_HEADS, N_LAYERS, TinyBatch, decode_steps, tiny_mllama
from tests.support.tiny_minigpt4 import also_of_minigpt4

N_TOKENS = 4
STRONG = PaiSettings(alpha=2.0, gamma=2.5, start_layer=1, end_layer=3, beta=0.02)
HEADS = [Head(layer, head) for layer in (1, 2) for head in range(N_HEADS)]


def decode(model, batch, settings, n_tokens=N_TOKENS):
    return pai.decode(as_lvlm(model), as_batch(batch), settings, n_tokens)


@also_of_minigpt4
@pytest.mark.parametrize("settings", [PaiSettings(0, 2.5, beta=0.02), PaiSettings(0, 1.3, beta=0.5)])
def test_guidance_equals_full_forwards(llava, settings):
    """Without a boost every token follows from two whole uncached forwards, one of a prompt without an image."""
    model, batch = double(llava), eight_rows(torch.float64)

    def choose(row, alone, answer):
        shown = last_logits(model, alone, answer).log_softmax(-1).tolist()
        blind = shown
        if alone.image_mask.any():
            blind = last_logits(model, without_image(alone), answer).log_softmax(-1).tolist()
        kept = [w for w, value in enumerate(shown) if value >= math.log(settings.beta) + max(shown)]
        return max(kept, key=lambda w: settings.gamma * (shown[w] - blind[w]) + blind[w])

    rows = decode(model, batch, settings)
    assert rows == slow_decode(model, batch, N_TOKENS, choose)
    plain = generated(model, batch, N_TOKENS)
    changed = [row != own for row, own in zip(rows, plain, strict=True)]
    assert any(changed) and not any(
        c for c, image in zip(changed, batch.image_mask.any(1).tolist(), strict=True) if not image
    )


@also_of_minigpt4
@torch.no_grad()
@pytest.mark.parametrize("gamma", [1, 2.5])
def test_boost_and_guidance_equal_loops_over_eager_maps(llava, gamma, monkeypatch):
    """Each row alone: cached steps under eager maps boosted by loops; the prompt without an image is left alone."""
    batch = eight_rows()
    settings = PaiSettings(2.0, gamma, 1, 3, beta=0.02)
    seen = []
    monkeypatch.setattr(
        Stepper, "step", lambda self, tokens=None, real=Stepper.step: seen.append(real(self, tokens)) or seen[-1]
    )
    answers = torch.tensor(decode(llava, batch, settings))
    fast = torch.stack(seen, 1)  # row * copies, step, vocabulary
    plain = torch.tensor(generated(llava, batch, N_TOKENS))
    assert (answers != plain).any()
    for row, (alone, _) in enumerate(single_rows(batch)):
        with eager_edits(llava, alone.image_mask, [BoostImageScores(HEADS, 2.0)]):
            shown = decode_steps(llava, alone, N_TOKENS, tokens=answers[row : row + 1])
        assert_close(fast[row if gamma == 1 else 2 * row], shown[0], atol=1e-4, rtol=0)
        scores = shown[0]
        if gamma != 1:
            blind = decode_steps(llava, without_image(alone), N_TOKENS, tokens=answers[row : row + 1])
            assert_close(fast[2 * row + 1], blind[0], atol=1e-4, rtol=0)
            scores = gamma * shown[0].log_softmax(-1) - (gamma - 1) * blind[0].log_softmax(-1)
            scores[shown[0].softmax(-1) < 0.02 * shown[0].softmax(-1).amax(-1, keepdim=True)] = -torch.inf
        assert scores.argmax(-1).tolist() == answers[row].tolist()


def test_settings_that_do_nothing_are_greedy(llava):
    batch = eight_rows()
    plain = generated(llava, batch, N_TOKENS)
    assert decode(llava, batch, PaiSettings(alpha=0, gamma=1)) == plain
    assert decode(llava, batch, PaiSettings(alpha=0, gamma=3, beta=1)) == plain


@pytest.mark.parametrize("settings", [PaiSettings(), STRONG])
def test_a_batch_equals_its_rows_alone(llava, settings):
    model, batch = double(llava), eight_rows(torch.float64)
    assert decode(model, batch, settings) == [decode(model, alone, settings)[0] for alone, _ in single_rows(batch)]


def test_inputs_as_embeddings(llava):
    """A row that comes as embeddings keeps its features; its twin loses them."""
    model, batch = double(llava), eight_rows(torch.float64)
    with torch.no_grad():
        embeddings = model.get_input_embeddings()(batch.inputs["input_ids"])
        features = model.model.get_image_features(batch.inputs["pixel_values"]).pooler_output
    embeddings[batch.image_mask] = torch.cat(list(features))
    inputs = {"inputs_embeds": embeddings, "attention_mask": batch.inputs["attention_mask"]}
    assert decode(model, TinyBatch(inputs, batch.image_mask), STRONG) == decode(model, batch, STRONG)


def test_twins_are_the_rows_without_their_images():
    batch = eight_rows()
    inputs, shown = with_image_free_twins(batch.inputs, batch.image_mask, 0)
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(inputs[name][::2], batch.inputs[name])
    assert torch.equal(shown[::2], batch.image_mask) and not shown[1::2].any()
    for row, (alone, _) in enumerate(single_rows(batch)):
        seen = inputs["attention_mask"][2 * row + 1].bool()
        assert torch.equal(inputs["input_ids"][2 * row + 1, seen][None], without_image(alone).inputs["input_ids"])
    assert not (inputs["input_ids"][1::2] == IMAGE_TOKEN).any()
    assert inputs["pixel_values"] is batch.inputs["pixel_values"]
    positions = (batch.inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    assert "position_ids" not in with_image_free_twins({**batch.inputs, "position_ids": positions}, shown[::2], 0)[0]


def test_guidance_by_hand():
    shown, blind = torch.tensor([[0.5, 0.375, 0.125, 0.0]]).log(), torch.tensor([[0.75, 0.125, 0.125, 0.0]]).log()
    scores = guide(shown, blind, 2.0, 0.5)
    assert torch.isneginf(scores[0, 2:]).all()
    assert_close(scores[0, :2].exp(), torch.tensor([0.25 / 0.75, 0.375**2 / 0.125]))


def test_ends_and_suppressed_ids_are_honoured(llava):
    assert_ends_and_suppressed_ids(llava, lambda batch: decode(llava, batch, STRONG))


def test_layers_and_presets(gqa_llava):
    assert boosted_heads(gqa_llava, PaiSettings()) == tuple(Head(layer, head) for layer in (2, 3) for head in range(4))
    assert boosted_heads(gqa_llava, STRONG) == tuple(HEADS)
    assert {"pai": PaiSettings(0.5, 1.1, 2, None, 0.1), "pai_readme": PaiSettings(0.2, 1.1, 2, None, 0.1)} == PRESETS


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"alpha": -0.5}, "alpha must be a number of at least 0, not -0.5"),
        ({"gamma": 0.9}, "gamma must be a number of at least 1, not 0.9"),
        ({"start_layer": -1}, "start_layer must be a whole number of at least 0, not -1"),
        ({"end_layer": 2}, "end_layer must be None or a whole number above start_layer 2, not 2"),
        ({"beta": 0}, "beta must be above 0 and at most 1, not 0"),
    ],
)
def test_wrong_settings_are_one_line(wrong, words):
    with pytest.raises(ValueError, match=f"^PaiSettings: {words}$"):
        PaiSettings(**wrong)


def test_a_model_that_does_not_fit_is_one_line(gqa_llava):
    with pytest.raises(ValueError, match=f"PAI boosts layers 2 to {N_LAYERS}; the model has 0 to {N_LAYERS - 1}"):
        decode(gqa_llava, eight_rows(), PaiSettings(end_layer=N_LAYERS + 1))
    with pytest.raises(ValueError, match="PAI boosts layers 9 to 3"):
        decode(gqa_llava, eight_rows(), PaiSettings(start_layer=9))
    model, inputs = tiny_mllama()
    with pytest.raises(NotImplementedError, match="reads its image by cross-attention"):
        decode(model, TinyBatch(inputs, inputs["input_ids"] == IMAGE_TOKEN), PaiSettings())
