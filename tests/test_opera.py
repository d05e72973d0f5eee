from dataclasses import replace

import pytest
import torch
from decoding import double, eight_rows, generation_settings, single_rows
from slow_opera import SlowOpera
from transformers import LogitsProcessor

from baselines import opera, retrospection
from baselines.opera import OperaSettings
from baselines.retrospection import Search

NEVER = 10_000  # a threshold beyond reach
BEAMS = OperaSettings(penalty_weight=0, threshold=NEVER)
N_TOKENS = 20
ENDS = {7, 46, 64}
RETURNING = [
    OperaSettings(num_beams=3, num_candidates=2, scale_factor=12, threshold=2),
    OperaSettings(num_beams=2, num_candidates=3, scale_factor=12, threshold=1, penalty_weight=0.5),
    OperaSettings(num_beams=3, num_candidates=1, scale_factor=12, threshold=1),
    OperaSettings(num_beams=2, num_candidates=2, scale_factor=12, threshold=1, window=4),
    OperaSettings(num_beams=2, num_candidates=2, scale_factor=12, threshold=1, variant="released"),
]


def decode(model, batch, settings, n_tokens=N_TOKENS):
    return opera.decode(model, batch.inputs, batch.image_mask, settings, n_tokens)


@pytest.fixture(scope="module")
def peaked(llava):
    """In fp64, with attention in the last layer so far from uniform that a token is trusted for many steps."""
    model = double(llava)
    model.model.language_model.layers[-1].self_attn.q_proj.weight.data *= 4
    return model


@pytest.fixture(scope="module")
def rows():
    return eight_rows(torch.float64)


class CutToBest(LogitsProcessor):
    """Log-probabilities among the k best tokens."""

    def __init__(self, k):
        self.k = k

    def __call__(self, input_ids, scores):
        worst = scores.topk(self.k).values[:, -1:]
        return scores.masked_fill(scores < worst, -torch.inf).log_softmax(-1)


@torch.no_grad()
def searched(model, batch, num_beams, k, n_tokens):
    """transformers' own beam search over logits cut to the k best."""
    prompt = 0 if "inputs_embeds" in batch.inputs else batch.inputs["input_ids"].shape[1]
    ids = model.generate(
        **batch.inputs,
        max_new_tokens=n_tokens,
        num_beams=num_beams,
        do_sample=False,
        logits_processor=[CutToBest(k)],
    )
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    rows = ids[:, prompt:].tolist()
    return [row[: next((place for place, token in enumerate(row) if token in ends), None)] for row in rows]


@pytest.mark.parametrize(("num_beams", "k"), [(5, 5), (2, 3), (3, 2), (4, 1), (1, 4)])
def test_without_penalty_and_return_it_is_beam_search(llava, rows, num_beams, k):
    model = double(llava)
    settings = replace(BEAMS, num_beams=num_beams, num_candidates=k)
    # what a beam search of transformers suppresses is not renormalised, unlike here; so nothing is suppressed
    with generation_settings(model, suppress_tokens=None):
        free = decode(model, rows, settings, 8)
        assert free == searched(model, rows, num_beams, k, 8)
        ends = [free[0][2], free[1][4], free[5][3], free[6][1]]
        with generation_settings(model, eos_token_id=ends, pad_token_id=0):
            ended = decode(model, rows, settings, 8)
            assert ended == searched(model, rows, num_beams, k, 8)
        with generation_settings(model, eos_token_id=ends[0], pad_token_id=0):
            assert decode(model, rows, settings, 8) == searched(model, rows, num_beams, k, 8)
    assert len({len(row) for row in ended}) > 2


@pytest.fixture
def watched(monkeypatch):
    """What every step of every search was given and found, by step; with one row these are in order."""
    steps = {"penalties": [], "beams": [], "summaries": [], "returned": []}
    real, choose, go_back = retrospection.penalise, Search.choose, Search.go_back

    def penalise(*args):
        found = real(*args)
        steps["penalties"].append(found[0].tolist())
        return found

    def watched_choose(self, *args):
        steps["beams"].append((self.state.beams.answers, self.state.beams.scores))
        return choose(self, *args)

    def watched_back(self, position):
        steps["returned"].append((self.state.beams.length, position))
        return go_back(self, position)

    monkeypatch.setattr(retrospection, "penalise", penalise)
    monkeypatch.setattr(Search, "choose", watched_choose)
    monkeypatch.setattr(Search, "go_back", watched_back)
    return steps


@pytest.mark.parametrize("number", range(len(RETURNING)))
def test_every_step_equals_loops_over_uncached_maps(peaked, rows, number, watched, request):
    """Penalties, beams and their scores, and where the search goes back, before and after it did."""
    settings = RETURNING[number]
    row = {"mha": [3, 0, 0, 3, 3], "gqa": [0, 2, 0, 2, 2]}[request.node.callspec.params["llava"]][number]
    alone = [*single_rows(rows)][row][0]
    for ends in (set(), ENDS):
        for seen in watched.values():
            seen.clear()
        slow = SlowOpera(peaked, alone, settings, N_TOKENS, ends)
        answer = slow.run()
        with generation_settings(peaked, eos_token_id=list(ends) or None, pad_token_id=0):
            assert decode(peaked, alone, settings) == [answer]
        assert watched["returned"] == slow.returned
        assert slow.returned or ends
        assert [answers for answers, _ in watched["beams"]] == [answers for answers, _ in slow.beams]
        for (_, fast), (_, own) in zip(watched["beams"], slow.beams, strict=True):
            assert fast == pytest.approx(own, abs=1e-4)
        for fast, own in zip(watched["penalties"], slow.penalties, strict=True):
            assert [x for beam in fast for x in beam] == pytest.approx([x for beam in own for x in beam], rel=1e-4)
