"""The same interventions on other model families, and in half precision."""

from copy import deepcopy

import pytest
import torch
from torch.testing import assert_close

from llava_hh.attention.hooks import intervene, record
from llava_hh.attention.interventions import DeactivateText, ScaleAttention, ZeroHeads
from llava_hh.attention.modules import attention_modules
from llava_hh.heads import Head
from tests.support.eager_edits import eager_edits
from tests.support.tiny import decode_steps, llava_batch, tiny_chameleon, tiny_llama, tiny_mistral_gqa, tiny_mllama

HEADS = [Head(0, 1), Head(1, 0), Head(1, 3), Head(2, 2), Head(3, 0), Head(3, 3)]
EDITS = [DeactivateText(HEADS, 0.45), ScaleAttention([Head(0, 0), Head(2, 1)], 0.3)]
close = {"atol": 1e-5, "rtol": 0}


@torch.no_grad()
@pytest.mark.parametrize("build", [tiny_llama, tiny_mistral_gqa])
def test_plain_language_models(build):
    model, batch = build(), llava_batch([[12], [9]])
    image_mask = torch.zeros_like(batch.image_mask)
    image_mask[:, 4:7] = True
    plain = model(**batch.inputs).logits
    with intervene(model, image_mask, []):
        assert torch.equal(model(**batch.inputs).logits, plain)
    with intervene(model, image_mask, EDITS):
        fused = model(**batch.inputs).logits
    with eager_edits(model, image_mask, EDITS):
        assert_close(fused[batch.real], model(**batch.inputs).logits[batch.real], **close)
    assert (fused - plain).abs().max() > 0.01
    assert model.config._attn_implementation == "sdpa"


@torch.no_grad()
def test_a_sliding_cache_whose_keys_are_unknown_is_refused():
    model, batch = tiny_mistral_gqa(sliding_window=6), llava_batch([[10]])
    image_mask = torch.zeros_like(batch.image_mask)
    image_mask[:, 2:5] = True
    with intervene(model, image_mask, EDITS):
        fused = model(**batch.inputs).logits  # whole, the window comes in through the mask
        with pytest.raises(NotImplementedError, match="slides over 6 keys"):
            decode_steps(model, batch, 2)
    with eager_edits(model, image_mask, EDITS):
        assert_close(model(**batch.inputs).logits, fused, **close)
    with intervene(model, image_mask, [ZeroHeads(HEADS)]):
        decode_steps(model, batch, 2)  # needs no span


@torch.no_grad()
def test_mllama_cross_layers_see_nothing_but_the_image():
    model, inputs = tiny_mllama()
    image_mask = inputs["input_ids"] == model.config.image_token_id
    plain = model(**inputs).logits
    assert sorted(attention_modules(model)) == [0, 1, 2]
    with intervene(model, image_mask, []):
        assert torch.equal(model(**inputs).logits, plain)
    with record(model, image_mask, mass=[(1, 0), (2, 0)]) as trace:
        model(**inputs)
    assert_close(trace.mass[1][0][..., -1, :], torch.tensor([1.0, 0.0]).expand(2, 1, 2), **close)
    assert ((trace.mass[2][0] > 0) & (trace.mass[2][0] < 1))[..., -1, :].all()
    for edit in (DeactivateText([(0, 1), (1, 0)], 0.0), ScaleAttention([(1, 0)], 0.5)):
        message = f"{type(edit).__name__} cannot act on L1H0: layer 1 attends to the image alone"
        with pytest.raises(ValueError, match=message), intervene(model, image_mask, [edit]):
            pass
    assert torch.equal(model(**inputs).logits, plain)
    halved = [ScaleAttention([(1, 1)], 0.5, "image"), ZeroHeads([(2, 3)])]
    with intervene(model, image_mask, halved):
        edited = model(**inputs).logits
    assert (edited - plain).abs().max() > 1e-3
    weights = deepcopy(model)
    d_head = model.config.text_config.hidden_size // 4
    layers = weights.model.language_model.layers
    layers[1].cross_attn.o_proj.weight[:, d_head : 2 * d_head] *= 0.5
    layers[2].self_attn.o_proj.weight[:, 3 * d_head :] = 0
    assert_close(edited, weights(**inputs).logits, **close)


@torch.no_grad()
def test_chameleon_keeps_its_image_tokenizer():
    model, batch = tiny_chameleon(), llava_batch([[12], [9]])
    plain = model(**batch.inputs).logits
    with intervene(model, batch.image_mask, []):
        assert model.config.vq_config._attn_implementation == "sdpa"
        assert torch.equal(model(**batch.inputs).logits, plain)
    with intervene(model, batch.image_mask, [ZeroHeads([(1, 1)])]):
        assert not torch.equal(model(**batch.inputs).logits, plain)


@torch.no_grad()
def test_half_precision_stays_half_precision(gqa_llava, batch):
    model = deepcopy(gqa_llava).to(torch.bfloat16)
    inputs = batch.inputs | {"pixel_values": batch.inputs["pixel_values"].bfloat16()}
    plain = model(**inputs).logits
    with intervene(model, batch.image_mask, [DeactivateText(HEADS, 1.0)]):
        assert torch.equal(model(**inputs).logits, plain)
    with (
        intervene(model, batch.image_mask, EDITS),
        record(model, batch.image_mask, mass=HEADS[:1], maps=HEADS[:1]) as trace,
    ):
        edited = model(**inputs).logits
    assert edited.dtype == torch.bfloat16 and not torch.equal(edited, plain)
    row = trace.maps[0][0][0, 0, -1]
    by_hand = torch.stack([row[batch.image_mask[0]].sum(), row[-6:].sum()])
    assert_close(trace.mass[0][0][0, 0, -1], by_hand, **close)
