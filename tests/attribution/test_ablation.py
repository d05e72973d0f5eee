"""Batched ablation against the loop it replaces: one cached single-token forward pass per head or module."""

import pytest
import torch
from torch.testing import assert_close

from llava_hh.attention.modules import attention_modules
from llava_hh.attribution.ablation import Ablated, ablate_every_head
from llava_hh.heads import Head
from tests.support.ablation_cases import (
    TOKENS,
    chameleon_case,
    embedded_llama_case,
    llama_case,
    llava_case,
    mllama_case,
    padded_llava_case,
    padded_minigpt4_case,
    sliding_mistral_case,
)
from tests.support.slow_ablation import ablate_one_by_one, assert_same, hook_output, zero
from tests.support.tiny import tiny_llama

CASES = [
    llama_case,
    embedded_llama_case,
    llava_case,
    padded_llava_case,
    sliding_mistral_case,
    mllama_case,
    chameleon_case,
    padded_minigpt4_case,
]


@pytest.mark.parametrize("case", CASES)
def test_equals_one_cached_step_per_head_and_module(case):
    model, inputs, positions = case()
    targets = [37 + 5 * row for row in range(len(positions))]
    ours = ablate_every_head(model, inputs, positions, targets, modules=True)
    with torch.no_grad():
        clean = model(**inputs).logits[0, positions].log_softmax(-1)[range(len(positions)), targets]
    assert_close(ours.clean, clean, atol=1e-4, rtol=1e-4)
    expected = ablate_one_by_one(model, inputs, positions, targets, modules=True)
    assert_same(ours, expected)
    assert_same(ablate_every_head(model, inputs, positions, targets), Ablated(expected.clean, expected.heads))
    # every head and module matters more than the tolerance, so one that was not ablated could not pass
    for values in (expected.heads, expected.mha[..., None], expected.mlp[..., None]):
        assert ((values - clean[:, None, None]).abs() > 1e-4).float().mean() > 0.9


def test_first_generated_token():
    """Its position is the prompt's last: the head is gone there, and not, as in the released code, in all the prefill.

    The caption is not in the reference at all: a plain pass over the prompt, without a cache, as generation starts.
    """
    model, inputs, _ = llava_case()
    length = 12
    prompt = inputs | {name: inputs[name][:, :length] for name in ("input_ids", "attention_mask")}
    ours = ablate_every_head(model, inputs, [length - 1], [9], modules=True)
    for place in [("heads", 1, 2), ("heads", 3, 0), ("mha", 1, None), ("mlp", 2, None)]:
        handle = hook_output(model, *place, zero)
        with torch.no_grad():
            expected = model(**prompt).logits[0, -1].log_softmax(-1)[9]
        handle.remove()
        assert_close(getattr(ours, place[0])[0][place[1:] if place[0] == "heads" else place[1]], expected)


@pytest.mark.parametrize("modules", [False, True])
@pytest.mark.parametrize("max_rows", [7, 9, 17, 40])
def test_max_rows_does_not_change_the_answer(max_rows, modules):
    model, inputs, positions = llava_case()
    whole = ablate_every_head(model, inputs, positions, [9, 8, 7], modules=modules)
    assert_same(
        ablate_every_head(model, inputs, positions, [9, 8, 7], max_rows=max_rows, modules=modules), whole, atol=1e-7
    )


@pytest.mark.parametrize(("max_rows", "modules"), [(4, False), (4096, False), (6, True), (4096, True)])
def test_some_heads_alone(max_rows, modules):
    model, inputs, positions = llava_case()
    whole = ablate_every_head(model, inputs, positions, [9, 8, 7], modules=modules)
    heads = [Head(3, 1), Head(0, 2), Head(3, 3), Head(3, 1), Head(2, 0)]  # none in layer 1, one twice
    some = ablate_every_head(model, inputs, positions, [9, 8, 7], max_rows=max_rows, heads=heads, modules=modules)
    expected = torch.full_like(whole.heads, torch.nan)
    layers, places = zip(*heads, strict=True)
    expected[:, layers, places] = whole.heads[:, layers, places]
    assert_close(some.heads, expected, atol=1e-5, rtol=0, equal_nan=True)
    for name in ("clean", "mha", "mlp") if modules else ("clean",):
        assert_close(getattr(some, name), getattr(whole, name), atol=1e-5, rtol=0)
    with pytest.raises(IndexError, match="L4H0"):
        ablate_every_head(model, inputs, positions, [9, 8, 7], heads=[Head(4, 0)])


@pytest.mark.parametrize(
    ("max_rows", "modules"),
    [(rows, False) for rows in (5, 8, 9, 17, 40, 51, 4096)] + [(rows, True) for rows in (7, 12, 17, 40, 75, 4096)],
)
def test_no_sweep_carries_more_than_max_rows(max_rows, modules):
    model, inputs, positions = llava_case()
    seen = []
    for attention in attention_modules(model).values():
        attention.o_proj.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    ablate_every_head(model, inputs, positions, [9, 8, 7], max_rows=max_rows, modules=modules)
    whole = 3 * (1 + 4 * (4 + 2 * modules))
    assert max(seen) <= max_rows
    assert max_rows < whole or max(seen) == whole


@pytest.mark.parametrize("by_blocks", [True, False])
def test_vocabulary_product_in_chunks(by_blocks, monkeypatch):
    model, inputs, positions = llava_case()
    whole = ablate_every_head(model, inputs, positions, [9, 8, 7])
    monkeypatch.setattr("llava_hh.attribution.sweep.MAX_LOGITS", 10 * 128)
    monkeypatch.setattr("llava_hh.attribution.sweep.BLOCK_ROWS", 10)
    if not by_blocks:
        monkeypatch.setattr("llava_hh.attribution.sweep._leaves_logits_alone", lambda *_: False)
    assert_same(ablate_every_head(model, inputs, positions, [9, 8, 7]), whole, atol=1e-7)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("fails", [False, True])
def test_model_is_restored(implementation, fails):
    model, inputs, positions = llava_case()
    model.set_attn_implementation(implementation)
    with torch.no_grad():
        before = model(**inputs).logits
    state = [sorted(vars(module)) for module in model.modules()]
    hooks = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()]
    if fails:

        def fail_in_sweep(_, args):
            if len(args[0]) > 3:
                assert model.get_decoder().layers[2].self_attn.o_proj._forward_hooks
                raise RuntimeError("in the middle of a sweep")

        handle = model.get_decoder().layers[2].mlp.register_forward_pre_hook(fail_in_sweep)
        with pytest.raises(RuntimeError, match="middle of a sweep"):
            ablate_every_head(model, inputs, positions, [9, 8, 7], modules=True)
        handle.remove()
    else:
        ablate_every_head(model, inputs, positions, [9, 8, 7], modules=True)
    assert model.config.get_text_config()._attn_implementation == implementation
    assert model.config.vision_config._attn_implementation == implementation
    assert [sorted(vars(module)) for module in model.modules()] == state
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == hooks
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, before)


def test_inputs_are_left_alone_and_no_positions_give_empty_results():
    model, inputs, positions = llava_case()
    copies = {name: value.clone() for name, value in inputs.items()}
    ablate_every_head(model, inputs, positions, [9, 8, 7])
    assert inputs.keys() == copies.keys() and all(torch.equal(inputs[name], copies[name]) for name in inputs)
    nothing = ablate_every_head(model, inputs, [], [], modules=True)
    assert nothing.clean.shape == (0,) and nothing.heads.shape == (0, 4, 4)
    assert nothing.mha.shape == nothing.mlp.shape == (0, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": [24]}, "position 24 is outside the sample, which has positions 0 to 23"),
        ({"positions": [-1]}, "position -1 is outside"),
        ({"positions": [3, 4]}, "2 positions but 1 target_ids"),
        ({"target_ids": [128]}, "target id 128 is outside the vocabulary, which has ids 0 to 127"),
        ({"max_rows": 4}, "max_rows is 4; the copies of one layer need at least 1 \\+ 4 rows"),
        ({"max_rows": 6, "modules": True}, "max_rows is 6; the copies of one layer need at least 1 \\+ 6 rows"),
        ({"inputs": {"input_ids": TOKENS.repeat(2, 1)}}, "input_ids holds 2 samples; one is allowed"),
        ({"inputs": {"attention_mask": TOKENS}}, "exactly one of input_ids and inputs_embeds"),
        ({"inputs": {"input_ids": TOKENS, "attention_mask": TOKENS * 0}}, "position 3 is padding"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {"inputs": {"input_ids": TOKENS}, "positions": [3], "target_ids": [9]} | change
    with pytest.raises(ValueError, match=message):
        ablate_every_head(tiny_llama(), **arguments)


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match="training mode"):
        ablate_every_head(tiny_llama().train(), {"input_ids": TOKENS}, [3], [9])


def test_attention_that_ignores_the_registered_function_is_refused(monkeypatch):
    model = tiny_llama()

    def attend_on_its_own(hidden_states, past_key_values=None, **kwargs):
        if past_key_values is not None:
            heads = hidden_states.unflatten(-1, (4, 8)).transpose(1, 2)
            past_key_values.update(heads, heads, 1)
        return hidden_states, None

    monkeypatch.setattr(attention_modules(model)[1], "forward", attend_on_its_own)
    with pytest.raises(ValueError, match="LlamaAttention does not attend through transformers' AttentionInterface"):
        ablate_every_head(model, {"input_ids": TOKENS}, [3], [9])
