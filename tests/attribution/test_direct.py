"""The direct effect of heads: a whole forward per head, whose final norm reads a residual without the head's term."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import GraniteConfig, GraniteForCausalLM

from llava_hh.attention.modules import attention_modules, decoder_layers
from llava_hh.attribution.ablation import ablate_every_head
from llava_hh.attribution.direct import has_direct_terms
from llava_hh.attribution.replacement import Mean, OutputStatistics
from llava_hh.heads import Head
from llava_hh.models.lvlm import load_lvlm
from tests.support.ablation_cases import llama_case, llava_case, padded_llava_case
from tests.support.questions import IMAGES, QUESTIONS, SHOWN
from tests.support.tiny_newer import FAMILIES, save_tiny_family

PLAIN = {"llama": llama_case, "llava": llava_case, "padded": padded_llava_case}
NORM_AFTER = {"gemma3", "chameleon_swin"}


def loaded(name, folder):
    save_tiny_family(name, folder)
    lvlm = load_lvlm(folder)
    image = (SHOWN if lvlm.model.config.model_type == "mllama" else IMAGES)[0]
    batch = lvlm.encode([image], QUESTIONS[:1], [[30, 41, 52, 33]])
    start = batch.response_start[0]
    return lvlm.model, batch.inputs, [start - 1, start + 2]


def granite_case():
    """Its layers multiply what they add to the residual."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.4}
    model = GraniteForCausalLM(GraniteConfig(**sizes, **heads, residual_multiplier=0.22)).eval()
    return model, {"input_ids": torch.randint(3, 120, (1, 20))}, [12, 17]


PLAIN["granite"] = granite_case


@pytest.fixture(params=[*PLAIN, *(name for name in FAMILIES if name not in NORM_AFTER)])
def case(request, tmp_path):
    return PLAIN[request.param]() if request.param in PLAIN else loaded(request.param, tmp_path / request.param)


@torch.no_grad()
def recomputed(model, inputs, positions, targets, replaced=None):
    """Log-probabilities (target, layer, head); `replaced`: what outputs become, (layer, head, d_head), or 0."""
    outputs, n_heads = {}, model.config.get_text_config().num_attention_heads
    handles = [
        module.o_proj.register_forward_pre_hook(lambda _, args, at=layer: outputs.update({at: args[0][0]}))
        for layer, module in attention_modules(model).items()
    ]
    model(**inputs)
    for handle in handles:
        handle.remove()
    found = torch.empty(len(positions), len(outputs), n_heads)
    for layer, module in attention_modules(model).items():
        width = module.o_proj.in_features // n_heads
        gate = getattr(decoder_layers(model)[layer], "cross_attn_attn_gate", torch.tensor(10.0)).tanh()
        gate = gate * getattr(model.config, "residual_multiplier", 1)
        for row, (position, target) in enumerate(zip(positions, targets, strict=True)):
            for head in range(n_heads):
                part = slice(head * width, (head + 1) * width)
                output = outputs[layer][position, part].clone()
                output -= 0 if replaced is None else replaced[layer, head]
                term = module.o_proj.weight[:, part] @ output * gate

                def take(_, args, position=position, term=term):
                    changed = args[0].clone()
                    changed[0, position] -= term
                    return (changed, *args[1:])

                handle = model.get_decoder().norm.register_forward_pre_hook(take)
                logits = model(**inputs).logits[0, position]
                handle.remove()
                found[row, layer, head] = logits.log_softmax(-1)[target]
    return found


def test_every_head(case):
    model, inputs, positions = case
    for layer in decoder_layers(model):
        if hasattr(layer, "cross_attn_attn_gate"):
            layer.cross_attn_attn_gate.data.fill_(0.7)
    targets = [51, 17, 30][: len(positions)]
    positions = positions[: len(targets)]
    found = ablate_every_head(model, inputs, positions, targets, direct=True)
    assert_close(found.direct, recomputed(model, inputs, positions, targets), atol=1e-5, rtol=1e-5)
    plain = ablate_every_head(model, inputs, positions, targets)
    assert plain.direct is None
    assert_close(found.heads, plain.heads, atol=1e-6, rtol=1e-6)
    assert (found.direct - found.clean[:, None, None]).abs().max() > 1e-4
    last = len(decoder_layers(model)) - 1
    assert (found.direct[:, last] - found.heads[:, last]).abs().max() > 0  # its own MLP comes after it


def test_few_rows_some_heads_sources_and_modules_beside():
    model, inputs, positions = llava_case()
    targets = [51, 17, 30][: len(positions)]
    whole = ablate_every_head(model, inputs, positions, targets, direct=True).direct
    n_heads = model.config.get_text_config().num_attention_heads
    more = {
        "sources": ["image", "after"],
        "image_mask": inputs["input_ids"][0] == 120,
        "answer_start": positions[0] + 1,
    }
    few = ablate_every_head(model, inputs, positions, targets, 3 * n_heads + 3, modules=True, direct=True, **more)
    assert_close(few.direct, whole, atol=1e-5, rtol=1e-5)
    some = [Head(1, 0), Head(1, 2), Head(0, 3)]
    part = ablate_every_head(model, inputs, positions, targets, heads=some, modules=True, direct=True).direct
    chosen = torch.zeros_like(whole, dtype=torch.bool)
    chosen[:, [1, 1, 0], [0, 2, 3]] = True
    assert torch.equal(part.isnan(), ~chosen)
    assert_close(part[chosen], whole[chosen], atol=1e-5, rtol=1e-5)


def test_a_mean_in_the_heads_place():
    model, inputs, positions = llama_case()
    config = model.config.get_text_config()
    shape = config.num_hidden_layers, config.num_attention_heads, config.head_dim
    rng = np.random.default_rng(0)
    heads, modules = rng.normal(size=shape).astype("f4"), np.zeros((shape[0], config.hidden_size), "f4")
    mean = Mean(OutputStatistics(heads, heads, modules, modules, modules, modules, 5))
    targets = [51, 17, 30][: len(positions)]
    found = ablate_every_head(model, inputs, positions, targets, replacement=mean, direct=True).direct
    expected = recomputed(model, inputs, positions, targets, torch.tensor(heads))
    assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_where_a_norm_follows(name, tmp_path):
    """What reads the attention's output, as the forward pass hands it over."""
    model, inputs, positions = loaded(name, tmp_path)
    outputs, readers = [], set()
    for attention, layer in zip(attention_modules(model).values(), decoder_layers(model), strict=True):
        attention.register_forward_hook(lambda _, args, out: outputs.append(out[0]))
        for child in layer.children():
            child.register_forward_pre_hook(
                lambda module, args: readers.update(
                    {type(module).__name__} if args and any(args[0] is output for output in outputs) else ()
                )
            )
    model(**inputs)
    assert bool(readers) == (name in NORM_AFTER) and has_direct_terms(model) == (not readers)
    if readers:
        with pytest.raises(ValueError, match="a norm follows o_proj"):
            ablate_every_head(model, inputs, positions, [51, 17], direct=True)
