from dataclasses import replace

import pytest
import torch

from llava_hh.attention.hooks import is_edited
from llava_hh.baselines import avisc
from llava_hh.baselines.avisc import AviscSettings, blind_tokens
from llava_hh.decoding.method import CannotDecode
from llava_hh.models.lvlm import load_lvlm
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
from tests.support.loops import drawn_or_best, with_embeddings
from tests.support.questions import IMAGES, QUESTIONS
from tests.support.tiny import N_HEADS, N_LAYERS, tiny_mllama
from tests.support.tiny_minigpt4 import also_of_minigpt4
from tests.support.tiny_newer import save_tiny_family

N_TOKENS = 4
STRONG = [
    AviscSettings(3.0, 0.02, spread=0.5, do_sample=False),
    AviscSettings(4.0, 0.3, share=0.9, spread=-0.5, do_sample=False),
    AviscSettings(2.0, share=0.2, spread=0.0, seed=5),
]


def lvlm_of(model):
    lvlm = as_lvlm(model)
    lvlm.n_heads, lvlm.n_layers = N_HEADS, N_LAYERS
    return lvlm


def decode(model, batch, settings, ids=None):
    return avisc.decode(lvlm_of(model), as_batch(batch, ids), settings, N_TOKENS)


class Looking:
    """What the last row of a prompt pays to each image token, by layer: the mean over heads."""

    first = None

    def __init__(self, alone):
        self.image = alone.image_mask[0].nonzero().flatten().tolist()
        self.paid = []

    def boost(self, layer, scores):
        pass

    def edit(self, layer, weights):
        of_heads = weights[0, :, -1]
        self.paid.append([sum(row[key].item() for row in of_heads) / len(of_heads) for key in self.image])


def seen_tokens(model, alone, settings):
    """The image positions that the twin does not see, by loops over eager maps."""
    looking = Looking(alone)
    with eager_by(model, looking), torch.no_grad():
        last_logits(model, alone, [])
    sums = [sum(paid) for paid in looking.paid]
    asked, share = [], 0.0
    for layer in sorted(range(len(sums)), key=lambda layer: -sums[layer]):
        asked.append(layer)
        share += sums[layer] / sum(sums)
        if share >= settings.share:
            break
    paid = [sum(looking.paid[layer][index] for layer in asked) / len(asked) for index in range(len(looking.image))]
    mean = sum(paid) / len(paid)
    spread = (sum((each - mean) ** 2 for each in paid) / (len(paid) - 1)) ** 0.5
    return [key for key, each in zip(looking.image, paid, strict=True) if each < mean + settings.spread * spread]


@also_of_minigpt4
@pytest.mark.parametrize("settings", STRONG)
def test_tokens_follow_from_whole_passes_over_eager_maps(llava, settings):
    model, batch, hidden, counts = double(llava), eight_rows(torch.float64), {}, []

    def choose(row, alone, answer):
        shown = twin = last_logits(model, alone, answer)
        if alone.image_mask.any():
            if row not in hidden:
                hidden[row] = seen_tokens(model, alone, settings)
                counts.append(len(hidden[row]))

            def blank(states):
                for key in hidden[row]:
                    states[0, key] = 0

            with with_embeddings(model, blank):
                twin = last_logits(model, alone, answer)
        return drawn_or_best(shown, twin, settings, row, len(answer))

    rows = decode(model, batch, settings)
    assert rows == slow_decode(model, batch, N_TOKENS, choose)
    assert rows != generated(model, batch, N_TOKENS)
    assert 0 < sum(counts) < 4 * len(counts)


@pytest.mark.parametrize("changed", [{"alpha": 0}, {"alpha": 5.0, "spread": -1e6}])
def test_no_contrast_and_a_twin_that_sees_all_are_greedy(llava, changed):
    settings = AviscSettings(**changed, do_sample=False)
    assert decode(llava, eight_rows(), settings) == generated(llava, eight_rows(), N_TOKENS)


@pytest.mark.parametrize("settings", STRONG)
def test_a_batch_equals_its_rows(llava, settings):
    batch = eight_rows()
    assert decode(llava, batch, settings) == [decode(llava, row, settings, ids)[0] for row, ids in single_rows(batch)]
    if not settings.do_sample:
        assert_ends_and_suppressed_ids(llava, lambda rows: decode(llava, rows, settings))
    assert not is_edited(llava)


def test_blind_tokens_by_hand():
    attention = torch.tensor([[[0.0, 0.1, 0.1, 0.1, 0.5]], [[0.0, 0.3, 0.05, 0.05, 0.0]]])
    image = torch.tensor([[False, True, True, True, True]])
    first = blind_tokens(attention, image, AviscSettings(share=0.5))  # 2/3 of the attention: the first layer alone
    assert first.tolist() == [[False, False, False, False, True]]
    both = blind_tokens(attention, image, AviscSettings(share=0.7, spread=0.0))  # means .2, .075, .075, .25 of .15
    assert both.tolist() == [[False, True, False, False, True]]


def test_an_image_that_is_added_again_is_refused(tmp_path):
    save_tiny_family("qwen3_vl", tmp_path / "model")
    lvlm = load_lvlm(tmp_path / "model")
    with pytest.raises(CannotDecode, match="adds the image again in later layers"):
        avisc.decode(lvlm, lvlm.encode(IMAGES[:1], QUESTIONS[:1]), AviscSettings(), 2)


def test_what_cannot_be_is_one_line(llava):
    model, inputs = tiny_mllama()
    with pytest.raises(CannotDecode, match="reads its image by cross-attention"):
        avisc.decode(lvlm_of(model), replace(as_batch(eight_rows()), inputs=inputs), AviscSettings(), 2)
    with pytest.raises(ValueError, match="share must be above 0 and at most 1, not 0"):
        AviscSettings(share=0)
