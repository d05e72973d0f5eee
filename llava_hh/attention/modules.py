"""The attention modules of a language model, the layers around them, and which attention function they run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import nn

from llava_hh.heads import Head

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def attention_modules(model: PreTrainedModel) -> dict[int, nn.Module]:
    """The attention modules of the language model, by layer; those of a vision tower are left out.

    An attention module is one with a `layer_idx` and an `o_proj` that is built from the text configuration; so
    Mllama's cross-attention layers are among them.

    Raises:
        ValueError: there is none, or two share a layer number.
    """
    text_type = type(model.config.get_text_config(decoder=True))
    modules: dict[int, nn.Module] = {}
    for name, module in model.named_modules():
        layer = getattr(module, "layer_idx", None)
        is_of_text = isinstance(layer, int) and type(getattr(module, "config", None)) is text_type
        if is_of_text and isinstance(getattr(module, "o_proj", None), nn.Module):
            if layer in modules:
                raise ValueError(f"{type(model).__name__} has two attention modules for layer {layer}; one is {name}")
            modules[layer] = module
    if not modules:
        raise ValueError(f"{type(model).__name__} has no attention module with a layer_idx and an o_proj")
    return dict(sorted(modules.items()))


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The decoder layers of the language model, in order: the modules that hold its attention modules.

    Raises:
        ValueError: there is no attention module, or two share a layer number.
    """
    parent_of = {child: parent for parent in model.modules() for child in parent.children()}
    return [parent_of[attention] for attention in attention_modules(model).values()]


def attends_to_image_alone(module: nn.Module) -> bool:
    """Whether an attention module is one of Mllama's cross-attention layers, whose keys are the image's."""
    return module.layer_idx in (getattr(module.config, "cross_attention_layers", None) or ())


def heads_on_image_alone(model: PreTrainedModel) -> list[Head]:
    """The heads of the layers that attend to the image alone, by layer.

    Nothing comes after the image there, so no intervention on the text and no figure of it can take these heads.
    """
    modules = {layer: module for layer, module in attention_modules(model).items() if attends_to_image_alone(module)}
    return [Head(layer, head) for layer, module in modules.items() for head in range(module.config.num_attention_heads)]


@contextmanager
def attribute_set(target: object, name: str, value: object) -> Iterator[None]:
    """Give an object (not its class) an attribute while the context is open; leaving restores what it had before."""
    before = {name: target.__dict__[name]} if name in target.__dict__ else {}
    target.__dict__[name] = value
    try:
        yield
    finally:
        target.__dict__.pop(name, None)
        target.__dict__.update(before)


@contextmanager
def switch_attention(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Run the language model's attention through the implementation `name`; leaving restores the one before.

    Only the text configuration is switched, so a vision tower keeps its attention.

    Args:
        name: "eager", "sdpa", ..., or a name registered with both `AttentionInterface` and `AttentionMaskInterface`.
    Raises:
        ValueError: no attention function or no mask function is registered under the name (without a mask function,
            transformers drops the mask silently); or the model does not look its attention function up.
    """
    from transformers import PreTrainedModel
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if name != "eager" and name not in ALL_ATTENTION_FUNCTIONS:
        raise ValueError(f"attention {name!r} is not registered with AttentionInterface")
    if name not in ALL_MASK_ATTENTION_FUNCTIONS:
        raise ValueError(f"attention {name!r} has no mask function registered with AttentionMaskInterface")
    text_type = type(model.config.get_text_config(decoder=True))
    before = {}  # by the configuration's id
    for module in model.modules():
        config = getattr(module, "config", None)
        if type(config) is text_type:
            before[id(config)] = config, config._attn_implementation
            if isinstance(module, PreTrainedModel) and not module._can_set_attn_implementation():
                raise ValueError(f"{type(module).__name__} does not look its attention up in AttentionInterface")
    try:
        for config, _ in before.values():
            config._attn_implementation = {"": name}  # the key "" leaves nested configurations alone
        yield
    finally:
        for config, previous in before.values():
            config._attn_implementation = {"": previous}


def input_device(model: PreTrainedModel) -> torch.device:
    """Where a model takes its inputs: its first weights' device, or where accelerate brings them if it keeps them away.

    Weights that are offloaded to memory or disk lie on `meta` between passes. Accelerate's hooks know the device that
    they come to.
    """
    if model.device.type != "meta":
        return model.device
    held = (getattr(module, "_hf_hook", None) for module in model.modules())
    hooks = chain.from_iterable(getattr(hook, "hooks", (hook,)) for hook in held)  # several hooks stand in one
    devices = (getattr(hook, "execution_device", None) for hook in hooks)
    return torch.device(next((device for device in devices if device is not None), model.device))
