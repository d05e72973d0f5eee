"""A model whose layers lie on two devices, without values: every product is of tensors on one device."""

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only
from transformers import LlamaConfig, LlamaForCausalLM

from llava_hh.attention.hooks import intervene, record
from llava_hh.attention.interventions import DeactivateText, ScaleAttention
from llava_hh.attribution.ablation import ablate_every_head
from llava_hh.attribution.estimate import estimate_every_head
from llava_hh.heads import Head

N_LAYERS, N_HEADS, LENGTH = 3, 4, 10


@pytest.fixture
def spread() -> tuple[LlamaForCausalLM, Tensor]:
    """A model whose second layer is on another device than the others, and its input ids.

    As accelerate's hooks do, every layer brings what it is given to its device. The devices are the CPU and `meta`,
    for a CPU knows no third; torch's fake tensors have no values, and refuse products of tensors on two devices.
    """
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        num_key_value_heads=2,
    )
    model, fake = LlamaForCausalLM(config).eval(), FakeTensorMode(allow_non_fake_inputs=True)
    places = dict.fromkeys((model.model.embed_tokens, *model.model.layers, model.model.norm), "cpu")
    places[model.model.layers[1]] = "meta"
    away = {*model.model.layers[1].modules()}
    for module in model.modules():
        device = "meta" if module in away else "cpu"
        for name, value in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(fake.from_tensor(value.data).to(device)))
        for name, value in module.named_buffers(recurse=False):
            setattr(module, name, fake.from_tensor(value).to(device))
    for module, device in places.items():

        def bring(_, args: tuple, kwargs: dict, device: str = device) -> tuple:
            return tree_map_only(Tensor, lambda value: value.to(device), (args, kwargs))

        module.register_forward_pre_hook(bring, with_kwargs=True)
    return model, fake.from_tensor(torch.arange(LENGTH)[None])


def test_attribution_and_its_estimate(spread):
    model, ids = spread
    sample = (model, {"input_ids": ids}, [5, 8], [3, 4])
    image = {"image_mask": torch.arange(LENGTH) < 3, "answer_start": 5}
    found = ablate_every_head(*sample, modules=True, sources=("image", "answer"), direct=True, **image)
    assert found.heads.shape == found.direct.shape == (2, N_LAYERS, N_HEADS)
    clean, drops = estimate_every_head(*sample)
    assert clean.shape == (2,) and drops.shape == (2, N_LAYERS, N_HEADS)


def test_interventions_and_records(spread):
    model, ids = spread
    image_mask, heads = torch.arange(LENGTH)[None] < 3, [Head(0, 1), Head(1, 2), Head(2, 3)]
    edits = [DeactivateText(heads[1:], 0.4), ScaleAttention(heads[:2], 0.5)]
    with (
        torch.no_grad(),
        intervene(model, image_mask, edits),
        record(model, image_mask, mass=heads, maps=heads) as trace,
    ):
        model(input_ids=ids)
    assert [trace.maps[layer][0].device.type for layer in range(N_LAYERS)] == ["cpu", "meta", "cpu"]
