from dataclasses import replace

import pytest
import torch
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from llava_hh.attention.hooks import is_edited
from llava_hh.baselines import damro
from llava_hh.baselines.damro import DamroSettings, show_outliers
from llava_hh.decoding.method import CannotDecode
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
from tests.support.loops import drawn_or_best, with_embeddings
from tests.support.tiny import TinyBatch
from tests.support.tiny_minigpt4 import tiny_minigpt4

N_TOKENS = 4
HALF = DamroSettings(4.0, 0.02, n_outliers=288, do_sample=False)  # two of the four image tokens
STRONG = [HALF, DamroSettings(5.0, 0.3, n_outliers=400, head_mode="mean", do_sample=False), replace(HALF, alpha=2.0)]
STRONG += [DamroSettings(3.0, n_outliers=10, seed=3)]  # one token, drawn


def decode(model, batch, settings, ids=None):
    return damro.decode(as_lvlm(model), as_batch(batch, ids), settings, N_TOKENS)


@torch.no_grad()
def outliers(model, alone, settings):
    """Patches by what the class token pays to them, most first: softmax by hand over the tower's own hidden states."""
    tower = model.model.vision_tower
    states = tower(alone.inputs["pixel_values"], output_hidden_states=True).hidden_states[-2]  # what enters the last
    layer = [part for part in tower.modules() if isinstance(part, CLIPEncoderLayer)][-1]
    normed = layer.layer_norm1(states)[0]
    query, keys = layer.self_attn.q_proj(normed[0]), layer.self_attn.k_proj(normed)
    n_heads = 1 if settings.head_mode == "single" else layer.self_attn.num_heads
    width = len(query) // n_heads
    paid = torch.zeros(len(keys), dtype=query.dtype)
    for head in range(n_heads):
        part = slice(head * width, (head + 1) * width)
        scores = torch.stack([query[part] @ key[part] / width**0.5 for key in keys])
        paid += scores.exp() / scores.exp().sum()
    ranked = sorted(range(len(keys) - 1), key=lambda patch: -paid[patch + 1].item())
    return ranked[: max(1, round(settings.n_outliers * len(ranked) / 576))]


def shortened(alone, n_kept):
    """The row with so many image positions, which hold another token; embeddings are put there."""
    ids, mask, kept = alone.inputs["input_ids"][0].tolist(), alone.image_mask[0].tolist(), []
    slots, image = [], [place for place, is_image in enumerate(mask) if is_image]
    for place, token in enumerate(ids):
        if not mask[place] or image.index(place) < n_kept:
            slots += [len(kept)] * mask[place]
            kept.append(5 if mask[place] else token)
    inputs = {"input_ids": torch.tensor([kept]), "attention_mask": torch.ones(1, len(kept), dtype=torch.long)}
    return TinyBatch(inputs, torch.zeros(1, len(kept), dtype=torch.bool)), slots


@torch.no_grad()
@pytest.mark.parametrize("settings", STRONG)
def test_tokens_follow_from_whole_passes_over_shorter_prompts(llava, settings):
    model, batch = double(llava), eight_rows(torch.float64)

    def choose(row, alone, answer):
        shown = twin = last_logits(model, alone, answer)
        if alone.image_mask.any():
            features = model.model.get_image_features(alone.inputs["pixel_values"]).pooler_output[0]
            chosen = outliers(model, alone, settings)
            short, slots = shortened(alone, len(chosen))

            def put(states):
                for slot, patch in zip(slots, chosen, strict=True):
                    states[0, slot] = features[patch]

            with with_embeddings(model, put):
                twin = last_logits(model, short, answer)
        return drawn_or_best(shown, twin, settings, row, len(answer))

    rows = decode(model, batch, settings)
    assert rows == slow_decode(model, batch, N_TOKENS, choose)
    assert rows != generated(model, batch, N_TOKENS)


def test_no_contrast_is_greedy(llava):
    settings = DamroSettings(alpha=0, do_sample=False)
    assert decode(llava, eight_rows(), settings) == generated(llava, eight_rows(), N_TOKENS)


@pytest.mark.parametrize("settings", STRONG)
def test_a_batch_equals_its_rows(llava, settings):
    batch = eight_rows()
    assert decode(llava, batch, settings) == [decode(llava, row, settings, ids)[0] for row, ids in single_rows(batch)]
    if not settings.do_sample:
        assert_ends_and_suppressed_ids(llava, lambda rows: decode(llava, rows, settings))
    assert not is_edited(llava)


def test_a_twin_shows_what_was_attended_most_first():
    states = torch.arange(20.0).view(2, 5, 2, 1)[..., 0].view(2, 5, 2)
    mask = torch.tensor([[False, True, True, True, False], [False, False, True, True, False]])
    shown = show_outliers(states, mask, [1], [torch.tensor([[0.2, 0.1, 0.7]])])
    assert torch.equal(shown[0], states[0])
    assert torch.equal(shown[1, 2:4], states[0, [3, 1]])
    assert torch.equal(shown[1, [0, 1, 4]], states[1, [0, 1, 4]])


def test_what_cannot_be_is_one_line(llava):
    model = tiny_minigpt4()
    with pytest.raises(CannotDecode, match="needs the patches of a CLIP tower with a class token"):
        damro.decode(as_lvlm(model), as_batch(eight_rows()), DamroSettings(), 2)
    before, llava.config.vision_feature_layer = llava.config.vision_feature_layer, [-1, -2]
    try:
        with pytest.raises(CannotDecode, match=r"needs one layer of the vision tower .* not \[-1, -2\]"):
            decode(llava, eight_rows(), DamroSettings())
    finally:
        llava.config.vision_feature_layer = before
    with pytest.raises(ValueError, match="head_mode must be 'single' or 'mean', not 'all'"):
        DamroSettings(head_mode="all")
