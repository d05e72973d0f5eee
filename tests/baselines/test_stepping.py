import pytest
import torch
from torch.testing import assert_close

from llava_hh.attention.hooks import intervene
from llava_hh.attention.interventions import DeactivateText
from llava_hh.attention.modules import decoder_layers
from llava_hh.baselines import greedy
from llava_hh.baselines.greedy import GreedySettings
from llava_hh.baselines.stepping import Stepper, decode_rows
from llava_hh.decoding.method import generate_greedily
from llava_hh.heads import Head
from llava_hh.models.lvlm import load_lvlm
from tests.support.decoding import (
    answers_of,
    as_batch,
    as_lvlm,
    eight_rows,
    generated,
    generation_settings,
    single_rows,
)
from tests.support.tiny import TinyBatch, tiny_chameleon, tiny_llama, tiny_mllama

N_TOKENS = 9
SETTINGS = GreedySettings()


def decode(model, batch, n_tokens=N_TOKENS):
    return greedy.decode(as_lvlm(model), as_batch(batch), SETTINGS, n_tokens)


def test_greedy_equals_generate(llava):
    batch = eight_rows()
    given = {name: tensor.clone() for name, tensor in batch.inputs.items()}
    rows = decode(llava, batch)
    assert rows == generated(llava, batch, N_TOKENS)
    assert {len(row) for row in rows} == {N_TOKENS}
    assert all(torch.equal(given[name], batch.inputs[name]) for name in given) and len(given) == len(batch.inputs)


def test_rows_end_at_different_steps_as_in_generate(llava):
    """Two end tokens, as later Llamas have; a row that ended is fed padding and no longer grows."""
    batch = eight_rows()
    free = decode(llava, batch)
    ends = [free[0][2], free[1][5]]
    with generation_settings(llava, eos_token_id=ends, pad_token_id=0):
        rows = decode(llava, batch)
        assert rows == generated(llava, batch, N_TOKENS)
    assert len(rows[0]) <= 2 and len(rows[1]) <= 5 and len({len(row) for row in rows}) > 2
    assert all(row == whole[: len(row)] for row, whole in zip(rows, free, strict=True))
    with generation_settings(llava, eos_token_id=ends[0]):
        assert decode(llava, batch, 3)[0] == free[0][: free[0].index(ends[0])]


def test_it_stops_when_every_row_has_ended(llava, monkeypatch):
    batch = next(single_rows(eight_rows()))[0]
    ends = [decode(llava, batch)[0][3]]
    steps = []
    monkeypatch.setattr(
        Stepper, "step", lambda self, tokens=None, real=Stepper.step: steps.append(1) or real(self, tokens)
    )
    with generation_settings(llava, eos_token_id=ends):
        (row,) = decode(llava, batch)
    assert len(steps) == len(row) + 1 <= 4


def test_suppressed_ids_are_never_chosen(llava):
    batch = eight_rows()
    free = decode(llava, batch)
    with generation_settings(llava, suppress_tokens=sorted({token for row in free for token in row[:3]})):
        rows = decode(llava, batch)
        assert rows == generated(llava, batch, N_TOKENS)
        logits = Stepper(llava, batch.inputs).step()
        assert torch.isneginf(logits[:, free[0][0]]).all() and torch.isfinite(logits).any()
    assert all(a[0] != b[0] for a, b in zip(rows, free, strict=True))


def test_a_batch_equals_its_rows_alone(llava):
    batch = eight_rows()
    assert decode(llava, batch) == [decode(llava, alone)[0] for alone, _ in single_rows(batch)]


def test_a_language_model_takes_embeddings():
    model, batch = tiny_llama(n_kv=2), eight_rows()
    ids = batch.inputs["input_ids"]
    inputs = {"inputs_embeds": model.get_input_embeddings()(ids), "attention_mask": batch.inputs["attention_mask"]}
    embedded = TinyBatch(inputs, torch.zeros_like(batch.image_mask))
    rows = decode(model, embedded)
    assert rows == generated(model, embedded, N_TOKENS)
    by_ids = TinyBatch({"input_ids": ids, "attention_mask": batch.inputs["attention_mask"]}, embedded.image_mask)
    assert rows == decode(model, by_ids)


@pytest.mark.parametrize("family", ["mllama", "chameleon"])
def test_other_families_step_as_in_generate(family):
    """Mllama's cached steps need a growing mask of the image's keys, which the loop itself knows nothing of."""
    if family == "mllama":
        model, inputs = tiny_mllama()
    else:
        batch = eight_rows()
        model, inputs = tiny_chameleon(), {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
        inputs["input_ids"] = inputs["input_ids"].masked_fill(batch.image_mask, 7)
    with generation_settings(model, eos_token_id=None):
        plain = TinyBatch(inputs, inputs["input_ids"] == -1)
        assert decode(model, plain) == generated(model, plain, N_TOKENS)


def test_interventions_act_in_every_step(llava):
    batch, edits = eight_rows(), [DeactivateText([Head(1, 0), Head(2, 3), Head(3, 1)], 0.3)]
    with intervene(llava, batch.image_mask, edits):
        edited = decode(llava, batch)
        assert edited == generated(llava, batch, N_TOKENS)
    assert edited != decode(llava, batch)


@torch.no_grad()
def test_watched_states_are_those_of_output_hidden_states(llava):
    batch = eight_rows()
    states = llava(**batch.inputs, output_hidden_states=True).hidden_states
    layers = range(len(decoder_layers(llava)))
    stepper = Stepper(llava, batch.inputs)
    with stepper.watch(layers) as kept:
        logits = stepper.step()
        assert set(kept) == set(layers)
        for layer in layers:
            real = batch.real.any(1)
            assert_close(kept[layer][real], states[layer][real, -1], atol=1e-5, rtol=0)
        first = kept[0].clone()
        stepper.step(logits.argmax(-1))
        assert not torch.equal(kept[0], first)
    stepper.step(logits.argmax(-1))
    assert not any(layer._forward_pre_hooks for layer in decoder_layers(llava))


def test_copies_decode_one_answer(gqa_llava):
    batch = eight_rows()
    ids = {name: batch.inputs[name][[1, 1, 4, 4]] for name in ("input_ids", "attention_mask")}
    rows = decode_rows(Stepper(gqa_llava, ids), lambda logits: logits[::2].argmax(-1), N_TOKENS, copies=2)
    assert rows == [decode(gqa_llava, batch)[row] for row in (1, 4)]


def test_answers_of_a_decoder_are_those_of_generate(tiny_checkpoint):
    lvlm = load_lvlm(tiny_checkpoint)
    prompts = ["describe", "describe a dog and the cat", "the"]
    batch = lvlm.encode([None] * 3, prompts, sample_ids=[5, 6, 7])
    free = generate_greedily(lvlm, batch, N_TOKENS)
    assert answers_of(lvlm, batch, greedy.decode, SETTINGS, N_TOKENS) == free
    with generation_settings(lvlm.model, eos_token_id=[free[0].token_ids[2]]):
        answers = answers_of(lvlm, batch, greedy.decode, SETTINGS, N_TOKENS)
        assert answers == generate_greedily(lvlm, batch, N_TOKENS)
    assert answers[0].finish_reason == "stop"


def test_wrong_input_is_one_line(llava):
    with pytest.raises(ValueError, match=r"expected input_ids or inputs_embeds among the inputs, not only \['pixel"):
        Stepper(llava, {"pixel_values": torch.zeros(1, 3, 8, 8)})
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, not 0"):
        decode(llava, eight_rows(), 0)
