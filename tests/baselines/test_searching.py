import pytest
import torch

from llava_hh.baselines.sampling import draw_tokens, sample_generator, warped
from llava_hh.baselines.searching import BeamSettings, SampleSettings, sample, search
from tests.support.decoding import (
    as_batch,
    as_lvlm,
    assert_ends_and_suppressed_ids,
    double,
    eight_rows,
    generated,
    generation_settings,
    ids_of,
    last_logits,
    single_rows,
    slow_decode,
)

N_TOKENS = 4


def lvlm_of(model):
    lvlm = as_lvlm(model)
    ends = model.generation_config.eos_token_id
    lvlm.end_token_ids = {ends} if isinstance(ends, int) else {*(ends or ())}
    return lvlm


def test_beams_are_the_best_of_all_continuations(mha_llava):
    """Two tokens by three beams, against every pair that begins with one of the three best."""
    model, batch = double(mha_llava), eight_rows(torch.float64)
    found = search(lvlm_of(model), as_batch(batch), BeamSettings(n=3), 2)
    for row, (alone, _) in enumerate(single_rows(batch)):
        first = last_logits(model, alone, []).log_softmax(-1)
        pairs = {}
        for token in first.topk(3).indices.tolist():
            after = last_logits(model, alone, [token]).log_softmax(-1)
            pairs |= {(token, other): (first[token] + value).item() for other, value in enumerate(after.tolist())}
        assert found[row] == list(max(pairs, key=pairs.get))
    assert found != generated(model, batch, 2)


def test_one_beam_is_greedy_and_a_batch_equals_its_rows(llava):
    batch = eight_rows()
    assert search(lvlm_of(llava), as_batch(batch), BeamSettings(n=1), N_TOKENS) == generated(llava, batch, N_TOKENS)
    alone = [search(lvlm_of(llava), as_batch(row), BeamSettings(n=3), N_TOKENS)[0] for row, _ in single_rows(batch)]
    assert search(lvlm_of(llava), as_batch(batch), BeamSettings(n=3), N_TOKENS) == alone
    ends = [row[1] for row in alone]
    with generation_settings(llava, eos_token_id=ends, pad_token_id=0):
        assert all(
            not set(row) & {*ends} for row in search(lvlm_of(llava), as_batch(batch), BeamSettings(n=3), N_TOKENS)
        )


@pytest.mark.parametrize("settings", [SampleSettings(), SampleSettings(0.7, 20, 0.9, seed=3)])
def test_draws_are_a_samples_own(llava, settings):
    model, batch = double(llava), eight_rows(torch.float64)
    generators = [sample_generator(settings.seed, name, "tokens") for name in ids_of(8)]

    def choose(row, alone, answer):
        scores = warped(last_logits(model, alone, answer)[None], settings.temperature, settings.top_k, settings.top_p)
        return draw_tokens(scores, generators[row : row + 1]).item()

    rows = sample(as_lvlm(model), as_batch(batch), settings, N_TOKENS)
    assert rows == slow_decode(model, batch, N_TOKENS, choose) != generated(model, batch, N_TOKENS)
    assert_ends_and_suppressed_ids(llava, lambda rows: sample(as_lvlm(llava), as_batch(rows), settings, N_TOKENS))


def test_the_likeliest_alone_is_greedy(llava):
    batch = eight_rows()
    found = sample(as_lvlm(llava), as_batch(batch), SampleSettings(top_k=1), N_TOKENS)
    assert found == generated(llava, batch, N_TOKENS)


def test_warping_by_hand():
    scores = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert torch.equal(warped(scores, 1, None, None), scores) and torch.equal(warped(scores, 1, None, 1.0), scores)
    assert warped(scores, 0.5, 3, None)[0, :3].tolist() == pytest.approx((2 * scores[0, :3]).tolist())
    assert warped(scores, 1, 3, None)[0].isinf().tolist() == [False, False, False, True]
    assert warped(scores, 1, None, 0.79)[0].isinf().tolist() == [False, False, True, True]
