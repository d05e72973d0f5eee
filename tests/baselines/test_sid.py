from dataclasses import replace

import pytest
import torch

from llava_hh.baselines import sid
from llava_hh.baselines.sid import PRESETS, SidSettings
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
from tests.support.eager_edits import eager_by
from tests.support.tiny import N_HEADS, tiny_mllama
from tests.support.tiny_minigpt4 import also_of_minigpt4

N_TOKENS = 4
HALF = SidSettings(2.0, 0.03, n_kept=288)  # two of the four image tokens
STRONG = [
    HALF,
    SidSettings(3.0, 0.5, n_kept=100, layer=1),
    SidSettings(1.5, n_kept=288, layer=3, cut_when_greedy=False),
]


def lvlm_of(model):
    lvlm = as_lvlm(model)
    lvlm.n_heads = N_HEADS
    return lvlm


def decode(model, batch, settings, ids=None):
    return sid.decode(lvlm_of(model), as_batch(batch, ids), settings, N_TOKENS)


class Hiding:
    """The twin by loops, uncached: rows of the prompt hide what its last row chose, each later row what it chose."""

    first = None

    def __init__(self, alone, settings):
        self.image = alone.image_mask[0].nonzero().flatten().tolist()
        self.start, self.settings, self.hidden = alone.image_mask.shape[1], settings, {}

    def edit(self, layer, weights):
        if layer == self.settings.layer - 1:
            last = weights.shape[2] - 1
            mean = [weights[0, :, last, key].mean().item() for key in self.image]
            n_kept = max(1, round(self.settings.n_kept * len(self.image) / 576))
            kept = sorted(range(len(mean)), key=lambda index: (mean[index], index))[:n_kept]
            self.hidden[last] = [key for index, key in enumerate(self.image) if index not in kept]

    def boost(self, layer, scores):
        if layer >= self.settings.layer:
            for row in range(scores.shape[2]):
                for key in self.hidden[max(row, self.start - 1)]:
                    if key != row or self.image[0] > 0:
                        scores[0, :, row, key] = -torch.inf


@also_of_minigpt4
@pytest.mark.parametrize("settings", STRONG)
def test_tokens_follow_from_whole_passes_over_eager_maps(llava, settings):
    model, batch, twins = double(llava), eight_rows(torch.float64), {}

    def choose(row, alone, answer):
        shown = last_logits(model, alone, answer)
        twin = shown
        if alone.image_mask.any():
            hiding = twins.setdefault(row, Hiding(alone, settings))
            with eager_by(model, hiding), torch.no_grad():
                twin = last_logits(model, alone, answer)
        scores = (1 + settings.alpha) * shown - settings.alpha * twin
        scores[shown.isinf()] = -torch.inf
        if settings.cut_when_greedy:
            scores[shown < shown.max() + torch.tensor(settings.beta).log()] = -torch.inf
        return scores.argmax().item()

    rows = decode(model, batch, settings)
    assert rows == slow_decode(model, batch, N_TOKENS, choose)
    assert rows != generated(model, batch, N_TOKENS)


@pytest.mark.parametrize("settings", [SidSettings(alpha=0), SidSettings(5.0, n_kept=576), SidSettings(5.0, n_kept=999)])
def test_no_contrast_and_a_twin_that_sees_all_are_greedy(llava, settings):
    assert decode(llava, eight_rows(), settings) == generated(llava, eight_rows(), N_TOKENS)


@pytest.mark.parametrize("settings", [*STRONG, SidSettings(2.0, n_kept=288, do_sample=True)])
def test_a_batch_equals_its_rows(llava, settings):
    batch = eight_rows()
    assert decode(llava, batch, settings) == [decode(llava, row, settings, ids)[0] for row, ids in single_rows(batch)]
    if not settings.do_sample:
        assert_ends_and_suppressed_ids(llava, lambda rows: decode(llava, rows, settings))


def test_what_cannot_be_is_one_line(llava):
    with pytest.raises(ValueError, match="SID hides image tokens from layer 9 on; the model has 0 to 3"):
        decode(llava, eight_rows(), SidSettings(layer=9))
    model, inputs = tiny_mllama()
    with pytest.raises(CannotDecode, match="reads its image by cross-attention"):
        sid.decode(lvlm_of(model), replace(as_batch(eight_rows()), inputs=inputs), PRESETS["sid"], 2)
