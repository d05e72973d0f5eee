import math

import pytest
import torch
from torch.testing import assert_close

from llava_hh.baselines import deco
from llava_hh.baselines.deco import VOTING, DecoSettings, corrected
from llava_hh.baselines.lens import layers_of
from tests.support.decoding import (
    as_batch,
    as_lvlm,
    assert_ends_and_suppressed_ids,
    double,
    eight_rows,
    forward,
    generated,
    single_rows,
    slow_decode,
)
from tests.support.slow_decoders import probabilities
from tests.support.tiny_minigpt4 import also_of_minigpt4

N_TOKENS = 3


def decode(model, batch, settings, n_tokens=N_TOKENS):
    return deco.decode(as_lvlm(model), as_batch(batch), settings, n_tokens)


def slow_step(model, alone, answer, settings, layers):
    """Scores of the plausible tokens, by loops over layers and candidates of a whole uncached forward."""
    outputs = forward(model, alone, answer, output_hidden_states=True)
    logits = outputs.logits[0, -1].tolist()
    last = probabilities(outputs.logits[0, -1])
    ranked = sorted(range(len(last)), key=lambda token: -last[token])[: settings.top_k]
    among, total = [], 0.0
    for token in ranked:
        among.append(token)
        total += last[token]
        if total >= settings.top_p:
            break
    norm, best = model.get_decoder().norm, (-1.0, None)
    for layer in layers:
        early = model.lm_head(norm(outputs.hidden_states[layer][0, -1]))
        surest = max(probabilities(early)[token] for token in among)
        best = max(best, (surest, layer), key=lambda pair: pair[0])
    early = model.lm_head(norm(outputs.hidden_states[best[1]][0, -1])).tolist()
    return {token: logits[token] + settings.alpha * best[0] * early[token] for token in among}, best[1]


@also_of_minigpt4
@pytest.mark.parametrize("settings", [DecoSettings(2.0, layers=(0, 3)), DecoSettings(1.5, 0.5, 6, layers=(1, 2))])
def test_scores_equal_full_forwards(llava, settings, monkeypatch):
    model, batch = double(llava), eight_rows(torch.float64)
    seen, picked = [], set()
    real = corrected
    monkeypatch.setattr(deco, "corrected", lambda *args: seen.append(real(*args)) or seen[-1])
    rows = decode(model, batch, settings)
    layers = range(settings.layers[0], settings.layers[1] + 1)

    def choose(row, alone, answer):
        scores, layer = slow_step(model, alone, answer, settings, layers)
        fast = seen[len(answer)][row]
        expected = torch.full_like(fast, -torch.inf)
        expected[list(scores)] = torch.tensor(list(scores.values()), dtype=fast.dtype)
        assert_close(fast, expected, atol=1e-9, rtol=0)
        picked.add(layer)
        return max(scores, key=scores.get)

    assert rows == slow_decode(model, batch, N_TOKENS, choose)
    assert rows != generated(model, batch, N_TOKENS) and len(picked) > 1


def test_no_weight_is_greedy_and_a_batch_equals_its_rows(llava):
    batch = eight_rows()
    assert decode(llava, batch, DecoSettings(alpha=0)) == generated(llava, batch, N_TOKENS)
    settings = DecoSettings(3.0, layers=(0, 3))
    assert decode(llava, batch, settings) == [decode(llava, alone, settings)[0] for alone, _ in single_rows(batch)]
    assert_ends_and_suppressed_ids(llava, lambda rows: decode(llava, rows, settings))


def test_plausible_tokens_by_hand():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    early = torch.tensor([[[0.1, 0.1, 0.7, 0.1]], [[0.2, 0.6, 0.1, 0.1]]]).log()
    two = corrected(logits, early, DecoSettings(1.0, top_p=0.8))  # 0.5 and 0.3 reach 0.8; the second layer is surest
    assert_close(
        two,
        torch.tensor([[math.log(0.5) + 0.6 * math.log(0.2), math.log(0.3) + 0.6 * math.log(0.6)] + [-math.inf] * 2]),
    )
    three = corrected(logits, early, DecoSettings(1.0, top_p=0.81))
    assert three.argmax().item() == 2 and three[0, 2].item() == pytest.approx(math.log(0.15) + 0.7 * math.log(0.7))


@pytest.mark.parametrize(("n_layers", "expected"), [(32, (20, 28)), (40, (25, 35)), (4, (3, 3)), (30, (19, 26))])
def test_layers_of_other_depths(n_layers, expected):
    layers = layers_of(n_layers, VOTING, None, "DeCo")
    assert (layers[0], layers[-1]) == expected


def test_wrong_settings_are_one_line(llava):
    with pytest.raises(ValueError, match="DeCo asks layers 2 to 9; the model has 0 to 3"):
        decode(llava, eight_rows(), DecoSettings(layers=(2, 9)))
    with pytest.raises(ValueError, match="layers must be None, or the first and the last"):
        DecoSettings(layers=(3, 1))
    with pytest.raises(ValueError, match="top_p must be above 0 and at most 1, not 0"):
        DecoSettings(top_p=0)
