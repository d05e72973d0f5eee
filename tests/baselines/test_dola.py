import math
from copy import deepcopy

import pytest
import torch
from torch.testing import assert_close

from llava_hh.baselines import dola
from llava_hh.baselines.dola import PRESETS, DolaSettings, candidate_layers, contrast_layers, divergences
from tests.support.decoding import (
    as_batch,
    as_lvlm,
    double,
    eight_rows,
    generated,
    generation_settings,
    single_rows,
    slow_decode,
)
from tests.support.slow_decoders import slow_step
from tests.support.tiny import N_LAYERS, TinyBatch, tiny_llama
from tests.support.tiny_minigpt4 import also_of_minigpt4

N_TOKENS = 4
VARIANTS = ["released", "textbook"]


def decode(model, batch, settings, n_tokens=N_TOKENS):
    return dola.decode(as_lvlm(model), as_batch(batch), settings, n_tokens)


@also_of_minigpt4
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layers", [(0, 1, 2, 3), (1, 3)])
def test_scores_and_layers_equal_full_forwards(llava, variant, layers, monkeypatch):
    model, batch = double(llava), eight_rows(torch.float64)
    settings = DolaSettings(layers, 0.02, variant)
    seen = []
    real = contrast_layers
    monkeypatch.setattr(dola, "contrast_layers", lambda *args: seen.append(real(*args)) or seen[-1])
    rows = decode(model, batch, settings)
    picked = set()

    def choose(row, alone, answer):
        scores, chosen = slow_step(model, alone, answer, settings, layers)
        fast, index = seen[len(answer)]
        assert layers[index[row]] == chosen
        expected = torch.full_like(fast[row], -torch.inf)
        expected[list(scores)] = torch.tensor(list(scores.values()), dtype=fast.dtype)
        assert_close(fast[row], expected, atol=1e-9, rtol=0)
        picked.add(chosen)
        return max(scores, key=scores.get)

    assert rows == slow_decode(model, batch, N_TOKENS, choose)
    assert rows != generated(model, batch, N_TOKENS)
    assert len(picked) > 1 or len(layers) == 2


def test_rows_choose_layers_of_their_own(llava, monkeypatch):
    seen = []
    real = contrast_layers
    monkeypatch.setattr(dola, "contrast_layers", lambda *args: seen.append(real(*args)[1].tolist()) or real(*args))
    decode(llava, eight_rows(), DolaSettings((0, 1, 2, 3)))
    assert any(len(set(chosen)) > 1 for chosen in seen)


@pytest.mark.parametrize("variant", VARIANTS)
def test_divergence_of_hand_worked_rows(variant):
    p = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.75, 0.0]]).log()
    q = torch.tensor([[[0.5, 0.5, 0.0], [0.75, 0.25, 0.0]]]).log()
    first, second = divergences(p, q, variant)[0].tolist()
    assert first == pytest.approx(0, abs=1e-7)
    if variant == "textbook":
        assert second == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    else:
        assert second == pytest.approx((0.5 * math.log(2) + 0.5 * math.log(2 / 3)) / 3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_the_most_likely_token_left_is_greedy(llava, variant):
    batch = eight_rows()
    assert decode(llava, batch, DolaSettings(relative_top=1.0, variant=variant)) == generated(llava, batch, N_TOKENS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_equals_its_rows_alone(llava, variant):
    model, batch = double(llava), eight_rows(torch.float64)
    settings = DolaSettings(variant=variant)
    assert decode(model, batch, settings) == [decode(model, alone, settings)[0] for alone, _ in single_rows(batch)]


def test_a_language_model_takes_embeddings():
    model, batch = tiny_llama(n_kv=2), eight_rows()
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    nowhere = torch.zeros_like(batch.image_mask)
    embedded = TinyBatch({"inputs_embeds": model.get_input_embeddings()(ids), "attention_mask": mask}, nowhere)
    by_ids = TinyBatch({"input_ids": ids, "attention_mask": mask}, nowhere)
    assert decode(model, embedded, DolaSettings()) == decode(model, by_ids, DolaSettings())


def test_no_filter_keeps_every_token_that_is_not_suppressed():
    logits, early = torch.randn(2, 6), torch.randn(3, 2, 6)
    logits[:, 4] = early[:, :, 4] = -torch.inf
    scores, chosen = contrast_layers(logits, early, DolaSettings(relative_top=0))
    assert torch.isneginf(scores).nonzero()[:, 1].tolist() == [4, 4]
    expected = logits[1].log_softmax(-1) - early[chosen[1], 1].log_softmax(-1)
    kept = [0, 1, 2, 3, 5]
    assert_close(scores[1, kept], expected[kept])


def test_ends_and_suppressed_ids_are_honoured(llava):
    batch, settings = eight_rows(), DolaSettings()
    free = decode(llava, batch, settings)
    with generation_settings(llava, suppress_tokens=[row[0] for row in free]):
        assert all(not set(row) & {row[0] for row in free} for row in decode(llava, batch, settings))
    with generation_settings(llava, eos_token_id=free[0][2], pad_token_id=0):
        assert decode(llava, batch, settings)[0] == free[0][: free[0].index(free[0][2])]


def test_default_candidates(gqa_llava):
    assert candidate_layers(gqa_llava, DolaSettings()) == [0, 2]
    tied = deepcopy(gqa_llava)
    tied.lm_head.weight = tied.get_input_embeddings().weight
    assert candidate_layers(tied, DolaSettings()) == [2]
    assert candidate_layers(tied, PRESETS["dola_repo"]) == [0, 2]
    assert candidate_layers(gqa_llava, DolaSettings([3, 1])) == [1, 3]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"candidate_layers": ()}, r"candidate_layers must be None, 'even', or different whole .* up, not \(\)"),
        ({"candidate_layers": (2, 2)}, r"candidate_layers must be .*, not \(2, 2\)"),
        ({"candidate_layers": (-1,)}, r"candidate_layers must be .*, not \(-1,\)"),
        ({"candidate_layers": "low"}, "candidate_layers must be .*, not 'low'"),
        ({"relative_top": 1.1}, "relative_top must be from 0 to 1, not 1.1"),
        ({"variant": "js"}, "variant must be 'released' or 'textbook', not 'js'"),
    ],
)
def test_wrong_settings_are_one_line(wrong, words):
    with pytest.raises(ValueError, match=f"^DolaSettings: {words}$"):
        DolaSettings(**wrong)


def test_a_layer_that_the_model_lacks_is_one_line(gqa_llava):
    with pytest.raises(ValueError, match=rf"candidate_layers \(0, {N_LAYERS}\) do not fit .* layers are 0 to 3"):
        decode(gqa_llava, eight_rows(), DolaSettings((0, N_LAYERS)))
