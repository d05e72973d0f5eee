"""Rows of heads as parameters: the same numbers and gradients as the whole matrices give, and nothing else moves."""

from copy import deepcopy

import pytest
import torch
from torch.testing import assert_close

from llava_hh.attention.modules import attention_modules
from llava_hh.finetuning.head_rows import (
    TunedRows,
    first_heads,
    merge_tuned_rows,
    tune_head_rows,
    untie_vocabulary,
)
from llava_hh.heads import Head
from tests.support.tiny import D_HEAD, N_LAYERS, VOCABULARY, tiny_llama

HEADS = [Head(2, 1), Head(0, 3), Head(2, 0), Head(3, 2)]
# query rows, and key rows where four query heads share two key heads
QUERY_ROWS = {0: range(24, 32), 2: range(0, 16), 3: range(16, 24)}
KEY_ROWS_GQA = {0: range(8, 16), 2: range(0, 8), 3: range(8, 16)}


def tuned_weights(n_kv: int) -> dict[str, list[int]]:
    keys = QUERY_ROWS if n_kv == 4 else KEY_ROWS_GQA
    return {
        f"model.layers.{layer}.self_attn.{name}.weight": list(rows[layer])
        for name, rows in (("q_proj", QUERY_ROWS), ("k_proj", keys))
        for layer in rows
    }


@pytest.mark.parametrize("bias", [False, True])
def test_output_is_that_of_the_layer_with_the_rows_in_it(bias):
    torch.manual_seed(0)
    base = torch.nn.Linear(5, 6, bias=bias)
    whole, tuned = deepcopy(base), TunedRows(base, [1, 4])
    tuned.rows.data += 1
    whole.weight.data[[1, 4]] += 1
    states = torch.randn(2, 3, 5)
    assert_close(tuned(states), whole(states))
    assert torch.equal(tuned.merge().weight, whole.weight)


@pytest.mark.parametrize("n_kv", [4, 2])
def test_gradients_are_the_rows_of_the_whole_gradients(n_kv):
    model = tiny_llama(n_kv, seed=4)
    ids = torch.randint(5, 100, (2, 9), generator=torch.Generator().manual_seed(0))
    plain = deepcopy(model)
    plain(ids, labels=ids).loss.backward()
    tuned = tune_head_rows(model, HEADS, vocabulary=True)
    model(ids, labels=ids).loss.backward()
    expected = tuned_weights(n_kv) | {"lm_head.weight": list(range(VOCABULARY))}
    assert {f"{name}.weight" for name in tuned} == expected.keys()
    for name, rows in expected.items():
        gradient = plain.get_parameter(name).grad[rows]
        assert gradient.abs().max() > 0
        assert_close(tuned[name.removesuffix(".weight")].rows.grad, gradient, atol=1e-6, rtol=1e-5)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {f"{name}.rows" for name in tuned}
    assert all(p.grad is None for name, p in model.named_parameters() if name not in trained)


@pytest.mark.parametrize("n_kv", [4, 2])
def test_merging_changes_these_rows_and_no_other_bit(n_kv):
    model = tiny_llama(n_kv)
    before = deepcopy(model)
    tuned = tune_head_rows(model, HEADS, vocabulary=False)
    for part in tuned.values():
        part.rows.data += 0.5
    ids = torch.arange(5, 15)[None]
    logits = model(ids).logits
    merge_tuned_rows(model, tuned)
    assert_close(model(ids).logits, logits)
    expected = tuned_weights(n_kv)
    for name, weight in model.state_dict().items():
        changed = (weight != before.state_dict()[name]).view(len(weight), -1).any(1).nonzero().flatten().tolist()
        assert changed == expected.get(name, []), name
    assert model.state_dict().keys() == before.state_dict().keys()
    assert set(attention_modules(model)) == set(range(N_LAYERS))


def test_half_precision_rows_are_trained_in_fp32():
    tuned = TunedRows(torch.nn.Linear(4, 4).bfloat16(), [0])
    assert tuned.rows.dtype == torch.float32
    assert tuned(torch.ones(1, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
    tuned.rows.data += 1
    assert tuned.merge().weight.dtype == torch.bfloat16


def test_the_first_listed_head_of_each_layer():
    heads = [Head(2, 1), Head(0, 3), Head(2, 0), Head(0, 1), Head(1, 1)]
    assert first_heads(heads) == [Head(2, 1), Head(0, 3), Head(1, 1)]


def test_a_tied_vocabulary_is_refused_until_it_is_untied(tmp_path):
    torch.manual_seed(0)
    model = tiny_llama()
    config = model.config
    config.tie_word_embeddings = True
    model = type(model)(config).eval()
    with pytest.raises(ValueError, match="pass --untie"):
        tune_head_rows(model, HEADS, vocabulary=True)
    embeddings = model.get_input_embeddings().weight.detach().clone()
    untie_vocabulary(model)
    tuned = tune_head_rows(model, HEADS, vocabulary=True)
    tuned["lm_head"].rows.data += 1
    merge_tuned_rows(model, tuned)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(again.get_input_embeddings().weight, embeddings)
    assert torch.equal(again.lm_head.weight, embeddings + 1)


def test_wrong_heads_and_weights():
    with pytest.raises(ValueError, match="no heads"):
        tune_head_rows(tiny_llama(), [], vocabulary=False)
    with pytest.raises(IndexError, match="L9H0"):
        tune_head_rows(tiny_llama(), [Head(9, 0)], vocabulary=False)
    quantised = torch.nn.Linear(2, D_HEAD)
    quantised.weight = torch.nn.Parameter(torch.zeros(16, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ValueError, match="uint8 cannot be trained"):
        TunedRows(quantised, [0])
