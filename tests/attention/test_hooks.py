"""Opening, nesting and leaving `intervene` and `record`; generation under them; what is recorded."""

from copy import deepcopy

import pytest
import torch
from torch.testing import assert_close
from transformers import BloomConfig, BloomForCausalLM

from llava_hh.attention.function import ATTENTION
from llava_hh.attention.hooks import intervene, record
from llava_hh.attention.interventions import DeactivateText, ScaleAttention, ZeroHeads
from llava_hh.attention.modules import attention_modules, switch_attention
from llava_hh.heads import Head
from tests.support.eager_edits import eager_edits
from tests.support.tiny import N_HEADS, N_LAYERS, decode_steps, llava_batch, tiny_llama
from tests.support.tiny_minigpt4 import also_of_minigpt4

HEADS = [Head(0, 1), Head(1, 0), Head(1, 3), Head(2, 2), Head(3, 0), Head(3, 3)]
EVERY_HEAD = [Head(layer, head) for layer in range(N_LAYERS) for head in range(N_HEADS)]
EDITS = [DeactivateText(HEADS, 0.45), ScaleAttention([Head(0, 0), Head(2, 1)], 0.3)]
close = {"atol": 1e-5, "rtol": 0}


def assert_untouched(model, implementation="sdpa"):
    assert model.config.get_text_config()._attn_implementation == implementation
    assert model.config._attn_implementation == "sdpa"
    assert not [key for module in model.modules() for key in vars(module) if "llava_hh" in key or key == "generate"]


def generate(model, batch, **settings):
    return model.generate(**batch.inputs, max_new_tokens=8, do_sample=False, **settings)[:, batch.image_mask.shape[1] :]


# --- finding and switching attention


def test_attention_modules_are_those_of_the_language_model(mha_llava):
    modules = attention_modules(mha_llava)
    assert list(modules) == list(range(N_LAYERS))
    assert all(module is mha_llava.model.language_model.layers[i].self_attn for i, module in modules.items())
    assert list(attention_modules(tiny_llama())) == list(range(N_LAYERS))
    with pytest.raises(ValueError, match="CLIPVisionModel has no attention module"):
        attention_modules(mha_llava.model.vision_tower)


def test_switching_leaves_the_vision_tower_alone(mha_llava):
    config = mha_llava.config
    with switch_attention(mha_llava, "eager"):
        assert config.text_config._attn_implementation == "eager"
        assert config.vision_config._attn_implementation == config._attn_implementation == "sdpa"
        with switch_attention(mha_llava, ATTENTION):
            assert config.text_config._attn_implementation == ATTENTION
        assert config.text_config._attn_implementation == "eager"
    assert_untouched(mha_llava)
    with pytest.raises(ValueError, match="'nonsense' is not registered"), switch_attention(mha_llava, "nonsense"):
        pass


def test_a_model_without_the_interface_is_refused():
    model = BloomForCausalLM(BloomConfig(vocab_size=16, hidden_size=8, n_layer=1, n_head=2))
    with pytest.raises(ValueError, match="Bloom.* does not look its attention up"), switch_attention(model, "eager"):
        pass
    with pytest.raises(ValueError, match="Bloom.* has no attention module"), record(model, torch.zeros(1, 1).bool()):
        pass


# --- generation


@also_of_minigpt4
def test_greedy_generation_equals_a_loop_of_cached_steps(llava, batch):
    plain = generate(llava, batch)
    with intervene(llava, batch.image_mask, EDITS) as trace:
        tokens = generate(llava, batch)
        generated = trace.fired
    with intervene(llava, batch.image_mask, EDITS) as trace:
        logits = decode_steps(llava, batch, 8)
    assert torch.equal(tokens, logits.argmax(-1))
    assert generated == trace.fired
    assert not torch.equal(tokens, plain)
    assert_untouched(llava)
    assert torch.equal(generate(llava, batch), plain)


@also_of_minigpt4
def test_each_beam_has_its_rows_span(llava):
    together = llava_batch([[3, "image", 6], [7, "image", 2, "image", 4], [2, "image", 3]])
    factors = (0.2, 0.7, 0.4)
    edits = [DeactivateText(EVERY_HEAD, 0.45), ScaleAttention(EVERY_HEAD[::3], factors)]
    with intervene(llava, together.image_mask, edits) as trace:
        beams = generate(llava, together, num_beams=3)
    assert any(0 < counts.fired < counts.decided for counts in trace.fired.values())
    assert not torch.equal(beams, generate(llava, together, num_beams=3))
    for row, pixels in enumerate(together.inputs["pixel_values"].split([1, 2, 1])):
        real = together.real[row]
        alone = deepcopy(together)
        alone.inputs = {key: together.inputs[key][row : row + 1, real] for key in ("input_ids", "attention_mask")}
        alone.inputs["pixel_values"] = pixels
        alone.image_mask = together.image_mask[row : row + 1, real]
        own = [edits[0], ScaleAttention(EVERY_HEAD[::3], factors[row])]
        with intervene(llava, alone.image_mask, own):
            assert torch.equal(generate(llava, alone, num_beams=3)[0], beams[row])


def test_a_factor_for_each_row_or_none(llava, batch):
    edits = [ScaleAttention(EVERY_HEAD, (0.5, 0.2))]
    with (
        pytest.raises(ValueError, match="2 alphas for the 4 rows of image_mask"),
        intervene(llava, batch.image_mask, edits),
    ):
        pass


# --- opening and leaving


@torch.no_grad()
def test_leaving_by_an_exception_restores(mha_llava, batch):
    plain = mha_llava(**batch.inputs).logits
    with pytest.raises(KeyError, match="mine"), intervene(mha_llava, batch.image_mask, EDITS):
        mha_llava(**batch.inputs)
        raise KeyError("mine")
    assert_untouched(mha_llava)
    assert torch.equal(mha_llava(**batch.inputs).logits, plain)


def test_blocks_may_be_left_in_any_order(mha_llava, batch):
    with torch.no_grad():
        plain = mha_llava(**batch.inputs).logits
        first, second = (record(mha_llava, batch.image_mask, mass=[[0, head]]) for head in range(2))
        traces = [block.__enter__() for block in (first, second)]
        mha_llava(**batch.inputs)
        first.__exit__(None, None, None)
        second.__exit__(None, None, None)
        assert [len(trace.mass[0]) for trace in traces] == [1, 1]
        assert torch.equal(mha_llava(**batch.inputs).logits, plain)
    assert not [key for module in mha_llava.modules() for key in vars(module) if "llava_hh" in key]
    mha_llava.set_attn_implementation("sdpa")  # the second block has restored what the first had set


def test_a_layer_that_was_never_called_raises_on_leaving(mha_llava, batch):
    zero = intervene(mha_llava, batch.image_mask, [ZeroHeads(HEADS)])
    with pytest.raises(RuntimeError, match=r"layers \[0, 1, 2, 3\] were never called"), zero:
        pass
    look = record(mha_llava, batch.image_mask, mass=[(2, 0)])
    with (
        pytest.raises(RuntimeError, match=r"layers \[2\] were never called"),
        look,
        switch_attention(mha_llava, "eager"),
    ):
        mha_llava(**batch.inputs)
    with pytest.raises(KeyError, match="mine"), intervene(mha_llava, batch.image_mask, [ZeroHeads(HEADS)]):
        raise KeyError("mine")
    assert_untouched(mha_llava)


@pytest.mark.parametrize("head", [Head(N_LAYERS, 0), Head(0, N_HEADS)])
def test_a_head_out_of_range_is_refused_on_entering(mha_llava, batch, head):
    message = f"{head}: the model has {N_LAYERS} layers of {N_HEADS} heads"
    with pytest.raises(IndexError, match=message), intervene(mha_llava, batch.image_mask, [ZeroHeads([head])]):
        pass
    with pytest.raises(IndexError, match=message), record(mha_llava, batch.image_mask, maps=[head]):
        pass
    assert_untouched(mha_llava)


def test_wrong_masks_and_starts_are_refused(mha_llava, batch):
    with (
        pytest.raises(ValueError, match="4 rows, no multiple of the 3"),
        intervene(mha_llava, batch.image_mask[:3], EDITS),
    ):
        mha_llava(**batch.inputs)
    with pytest.raises(ValueError, match="2 rows"), intervene(mha_llava, batch.image_mask, EDITS, [5, 5]):
        pass
    assert_untouched(mha_llava)


@torch.no_grad()
def test_nested_blocks_add_up(llava, batch):
    outer, inner = [DeactivateText(HEADS, 0.45)], [ScaleAttention(HEADS[:3], 2.0, "image"), ZeroHeads(HEADS[-2:])]
    with intervene(llava, batch.image_mask, outer + inner) as trace:
        together = llava(**batch.inputs).logits
    with intervene(llava, batch.image_mask, outer) as outer_trace:
        with intervene(llava, batch.image_mask, inner) as inner_trace:
            nested = llava(**batch.inputs).logits
            assert outer_trace.fired == trace.fired
        alone = llava(**batch.inputs).logits
    assert torch.equal(nested, together)
    with intervene(llava, batch.image_mask, outer) as again:
        assert torch.equal(llava(**batch.inputs).logits, alone)
    assert not torch.equal(alone, nested)
    assert inner_trace.fired == {}
    assert outer_trace.fired == again.fired  # a position counts once, as it was computed last
    assert_untouched(llava)


def test_gradients_pass_through_edits(mha_llava, batch):
    embed = mha_llava.get_input_embeddings().weight
    edits = [*EDITS, ZeroHeads([Head(1, 1)])]
    with intervene(mha_llava, batch.image_mask, edits):
        fused = torch.autograd.grad(mha_llava(**batch.inputs).logits[:, -1].square().sum(), embed)[0]
    with record(mha_llava, batch.image_mask, mass=[(3, 0)]) as trace:
        mha_llava(**batch.inputs)
    assert torch.autograd.grad(trace.mass[3][0][:, :, -1].sum(), embed)[0].abs().max() > 0
    step = torch.zeros_like(embed)
    step[batch.inputs["input_ids"][0, -1]] = 1e-3
    values = []
    for sign in (1, -1):
        shifted = deepcopy(mha_llava)
        shifted.get_input_embeddings().weight.data += sign * step
        with torch.no_grad(), intervene(shifted, batch.image_mask, edits):
            values.append(shifted(**batch.inputs).logits[:, -1].double().square().sum())
    assert_close(((values[0] - values[1]) / 2).float(), (fused * step).sum(), atol=1e-3, rtol=0.02)


# --- recording


@also_of_minigpt4
@torch.no_grad()
def test_recorded_attention_equals_eager_maps(llava, batch):
    eager = deepcopy(llava)
    eager.set_attn_implementation("eager")
    plain = llava(**batch.inputs).logits
    maps = eager(**batch.inputs, output_attentions=True).attentions
    heads = [Head(1, 3), Head(1, 0), Head(3, 2)]
    with record(llava, batch.image_mask, mass=heads, maps=heads[:2]) as trace:
        assert torch.equal(llava(**batch.inputs).logits, plain)
        decode_steps(llava, batch, 2)
    assert list(trace.mass) == [1, 3] and list(trace.maps) == [1]
    n_rows, n_keys = batch.image_mask.shape
    assert [entry.shape for entry in trace.maps[1]] == [(n_rows, 2, n_keys, n_keys)] * 2 + [(n_rows, 2, 1, n_keys + 1)]
    real = batch.real[:, None].expand(-1, 2, -1)
    assert_close(trace.maps[1][0][real], maps[1][:, [0, 3]][real], **close)
    assert not trace.maps[1][0][~real].any()  # a padding row sees no key
    for layer, chosen in {1: [0, 3], 3: [2]}.items():
        for row, image in enumerate(batch.image_mask.tolist()):
            last = max((key for key, is_image in enumerate(image) if is_image), default=n_keys)
            for index, head in enumerate(chosen):
                pattern = maps[layer][row, head, batch.real[row]]
                by_hand = torch.stack([pattern[:, batch.image_mask[row]].sum(-1), pattern[:, last + 1 :].sum(-1)], -1)
                assert_close(trace.mass[layer][0][row, index, batch.real[row]], by_hand, **close)
    assert trace.mass[1][0].dtype == trace.maps[1][0].dtype == torch.float32
    assert trace.fired == {}
    assert_untouched(llava)


@torch.no_grad()
def test_recording_shows_the_pattern_before_the_edit(mha_llava, batch):
    with eager_edits(mha_llava, batch.image_mask, []):
        plain = mha_llava(**batch.inputs, output_attentions=True).attentions[1]
    edits = [ZeroHeads([Head(1, 2)]), ScaleAttention([Head(1, 2)], 0.0)]
    look = record(mha_llava, batch.image_mask, maps=[Head(1, 2), Head(2, 0)])
    with intervene(mha_llava, batch.image_mask, edits), look as inside:
        mha_llava(**batch.inputs)
    with record(mha_llava, batch.image_mask, maps=[Head(2, 0)]) as outside:
        mha_llava(**batch.inputs)
    assert_close(inside.maps[1][0][:, 0][batch.real], plain[:, 2][batch.real], **close)
    assert (inside.maps[2][0] - outside.maps[2][0]).abs().max() > 1e-3  # the next layer reads edited states
