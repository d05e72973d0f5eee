import math

import pytest
import torch

from llava_hh.baselines import m3id
from llava_hh.baselines.m3id import PRESETS, M3idSettings, grounded
from llava_hh.baselines.sampling import draw_tokens, sample_generator
from tests.support.decoding import (
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
from tests.support.slow_decoders import without_image
from tests.support.tiny_minigpt4 import also_of_minigpt4

N_TOKENS = 4
STRONG = [M3idSettings(0.5, unsure=0.9), M3idSettings(0.3, 4, 1.0, "logits", beta=0.05), PRESETS["m3id_avisc"]]


def decode(model, batch, settings, ids=None):
    return m3id.decode(as_lvlm(model), as_batch(batch, ids), settings, N_TOKENS)


@also_of_minigpt4
@pytest.mark.parametrize("settings", STRONG)
def test_tokens_follow_from_full_forwards(llava, settings):
    model, batch = double(llava), eight_rows(torch.float64)
    generators = [sample_generator(settings.seed, name, "tokens") for name in ids_of(8)]

    def choose(row, alone, answer):
        shown = last_logits(model, alone, answer)
        blind = last_logits(model, without_image(alone), answer) if alone.image_mask.any() else shown
        gamma = math.exp(-settings.decay * (len(answer) + 1 + settings.offset))
        likely = shown.log_softmax(-1)
        given, other = (shown, blind) if settings.scores == "logits" else (likely, blind.log_softmax(-1))
        scores = given.clone()
        if settings.unsure == 1 or likely.max() < math.log(settings.unsure):
            scores = given + (1 - gamma) / gamma * (given - other)
            scores[given.isinf()] = -torch.inf
        if settings.beta:
            scores[likely < likely.max() + math.log(settings.beta)] = -torch.inf
        if settings.do_sample:
            return draw_tokens(scores[None], generators[row : row + 1]).item()
        return scores.argmax().item()

    rows = decode(model, batch, settings)
    assert rows == slow_decode(model, batch, N_TOKENS, choose)
    assert rows != generated(model, batch, N_TOKENS)


@pytest.mark.parametrize("settings", [M3idSettings(decay=0, offset=7), M3idSettings(5.0, unsure=0)])
def test_settings_that_do_nothing_are_greedy(llava, settings):
    assert decode(llava, eight_rows(), settings) == generated(llava, eight_rows(), N_TOKENS)


@pytest.mark.parametrize("settings", STRONG)
def test_a_batch_equals_its_rows(llava, settings):
    batch = eight_rows()
    assert decode(llava, batch, settings) == [decode(llava, row, settings, ids)[0] for row, ids in single_rows(batch)]
    if not settings.do_sample:
        assert_ends_and_suppressed_ids(llava, lambda rows: decode(llava, rows, settings))


@pytest.mark.parametrize("step", [1, 2, 50])
def test_weights_by_hand(step):
    shown, blind = torch.tensor([[0.4, 0.6]]).log(), torch.tensor([[0.1, 0.9]]).log()
    gamma = math.exp(-0.02 * step)
    expected = [math.log(p) + (1 - gamma) / gamma * math.log(p / q) for p, q in ((0.4, 0.1), (0.6, 0.9))]
    assert grounded(shown, blind, step, M3idSettings(unsure=0.7))[0].tolist() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(grounded(shown, blind, step, M3idSettings(unsure=0.5)), shown.log_softmax(-1))  # it is sure
