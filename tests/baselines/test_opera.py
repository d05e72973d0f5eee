from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close
from transformers import LogitsProcessor

from llava_hh.attention.hooks import intervene, record
from llava_hh.attention.interventions import ZeroHeads
from llava_hh.baselines import opera, retrospection
from llava_hh.baselines.opera import PRESETS, OperaSettings
from llava_hh.baselines.retrospection import Search
from llava_hh.heads import Head
from tests.support.decoding import as_batch, as_lvlm, double, eight_rows, forward, generation_settings, single_rows
from tests.support.slow_opera import SlowOpera
from tests.support.tiny import IMAGE_TOKEN, TinyBatch, tiny_llama, tiny_mistral_gqa, tiny_mllama
from tests.support.tiny_minigpt4 import also_of_minigpt4

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
    return opera.decode(as_lvlm(model), as_batch(batch), settings, n_tokens)


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


@also_of_minigpt4
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
    row = {"mha": [3, 0, 3, 3, 3], "gqa": [0, 2, 0, 2, 2]}[request.node.callspec.params["llava"]][number]
    alone = [*single_rows(rows)][row][0]
    for ends in [set(), ENDS] if number == 1 else [set()]:
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


@torch.no_grad()
def test_cache_and_state_are_those_of_a_fresh_forward(peaked, rows, watched, monkeypatch):
    """After every step of every row, steps back included: the keys and values that each beam sees, and its logits."""
    settings = RETURNING[1]
    alone = [own for own, _ in single_rows(rows)]
    checked = Counter()
    real = opera.take_step

    def take_step(branches, searches, *args):
        real(branches, searches, *args)
        for row, search in enumerate(searches):
            if search.result is not None:
                continue
            state = search.state
            for slot, answer in enumerate(state.beams.answers):
                fresh = forward(peaked, alone[row], answer, use_cache=True)
                real_columns = rows.real[row].nonzero()[:, 0].tolist() + state.columns[slot]
                assert state.seen[slot].nonzero()[:, 0].tolist() == real_columns
                layers = branches._state["past_key_values"].layers
                for held, own in zip(layers, fresh.past_key_values.layers, strict=True):
                    assert_close(held.keys[row, :, real_columns], own.keys[0], atol=1e-9, rtol=0)
                    assert_close(held.values[row, :, real_columns], own.values[0], atol=1e-9, rtol=0)
                fresh.logits[0, -1, IMAGE_TOKEN] = -torch.inf
                assert_close(state.logits[slot], fresh.logits[0, -1], atol=1e-9, rtol=0)
                checked[state.beams.length, row] += 1

    monkeypatch.setattr(opera, "take_step", take_step)
    decode(peaked, rows, settings)
    assert len(watched["returned"]) >= 2
    assert max(checked.values()) > settings.num_beams  # a length that was reached twice


@pytest.mark.parametrize("settings", [PRESETS["opera"], *RETURNING[1:4]])
def test_a_batch_equals_its_rows_alone(peaked, rows, settings, watched):
    free = decode(peaked, rows, settings)
    assert watched["returned"] or settings == PRESETS["opera"]
    for ends in ([], [free[0][3], free[1][8], free[3][13], free[5][15]]):
        with generation_settings(peaked, eos_token_id=ends or None, pad_token_id=0):
            together = decode(peaked, rows, settings)
            assert together == [decode(peaked, alone, settings)[0] for alone, _ in single_rows(rows)]
    assert len({len(row) for row in together}) > 2


def test_inputs_as_embeddings(peaked, rows):
    with torch.no_grad():
        embeddings = peaked.get_input_embeddings()(rows.inputs["input_ids"])
        features = peaked.model.get_image_features(rows.inputs["pixel_values"]).pooler_output
    embeddings[rows.image_mask] = torch.cat(list(features))
    inputs = {"inputs_embeds": embeddings, "attention_mask": rows.inputs["attention_mask"]}
    expected = decode(peaked, rows, RETURNING[1])
    assert decode(peaked, TinyBatch(inputs, rows.image_mask), RETURNING[1]) == expected
    language = tiny_llama(n_kv=peaked.config.text_config.num_key_value_heads).double()
    language.model.load_state_dict(peaked.model.language_model.state_dict())
    language.lm_head.load_state_dict(peaked.lm_head.state_dict())
    with generation_settings(language, suppress_tokens=[IMAGE_TOKEN]):
        assert decode(language, TinyBatch(inputs, rows.image_mask), RETURNING[1]) == expected


def test_forwards_are_those_it_needs(peaked, rows, watched, monkeypatch):
    """The prompt, then one forward per token of all candidates; one more where a search goes back."""
    sizes = []
    real = type(peaked).forward

    def forward(self, *args, **kwargs):
        sizes.append(tuple(kwargs["input_ids"].shape))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(type(peaked), "forward", forward)
    n_prompts, length = rows.inputs["input_ids"].shape
    for settings in (OperaSettings(num_beams=3, num_candidates=4, threshold=NEVER), PRESETS["opera_fast"]):
        sizes.clear()
        decode(peaked, rows, settings, 8)
        widths = [1, *[3] * 7] if settings.num_candidates > 1 else [1] * 8
        assert sizes == [(n_prompts, length), *((n_prompts, width * settings.num_candidates) for width in widths)]
    sizes.clear()
    watched["beams"].clear()
    for row in (0, 3):
        decode(peaked, [*single_rows(rows)][row][0], RETURNING[0])
    assert watched["returned"]
    assert len(sizes) == 2 + len(watched["beams"]) + len(watched["returned"])


def test_what_cannot_be_decoded_is_one_line(gqa_llava, rows):
    batch = eight_rows()
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, not 0"):
        decode(gqa_llava, batch, BEAMS, 0)
    with pytest.raises(ValueError, match=r"image_mask is \(8, 19\), the prompts are \(8, 20\)"):
        decode(gqa_llava, TinyBatch(batch.inputs, batch.image_mask[:, 1:]), BEAMS)
    with pytest.raises(ValueError, match="num_candidates 129 is more than the 128 tokens of the vocabulary"):
        decode(gqa_llava, batch, replace(BEAMS, num_candidates=129))
    with (
        pytest.raises(NotImplementedError, match="OPERA takes no intervention"),
        intervene(gqa_llava, batch.image_mask, [ZeroHeads((Head(0, 0),))]),
    ):
        decode(gqa_llava, batch, BEAMS)
    model, inputs = tiny_mllama()
    with pytest.raises(NotImplementedError, match="reads its image by cross-attention"):
        decode(model, TinyBatch(inputs, inputs["input_ids"] == IMAGE_TOKEN), BEAMS)
    plain = {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
    with pytest.raises(NotImplementedError, match="branches need a cache that keeps every key"):
        decode(tiny_mistral_gqa(sliding_window=30), TinyBatch(plain, batch.image_mask), BEAMS)


def test_other_recordings_stay_open_around_it(gqa_llava):
    batch = eight_rows()
    alone = decode(gqa_llava, batch, PRESETS["opera"], 3)
    with record(gqa_llava, batch.image_mask, mass=[Head(3, 0)]) as trace:
        assert decode(gqa_llava, batch, PRESETS["opera"], 3) == alone
    assert len(trace.mass[3]) == 4
