"""Ablation one head or module at a time: one cached single-token forward pass each."""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch.testing import assert_close
from torch.utils.hooks import RemovableHandle
from transformers import DynamicCache, PreTrainedModel

from llava_hh.attention.modules import attention_modules
from llava_hh.attribution.ablation import Ablated

PER_POSITION = ("input_ids", "inputs_embeds", "attention_mask", "cross_attention_mask")


def zero(output: torch.Tensor, *_) -> torch.Tensor:
    return output * 0


def hook_output(
    model: PreTrainedModel, kind: str, layer: int, head: int | None, edit: Callable[[torch.Tensor], torch.Tensor]
) -> RemovableHandle:
    """Let `edit` answer for one head, or for the whole attention or MLP of a layer, at the last position."""
    o_proj = attention_modules(model)[layer].o_proj
    if kind == "heads":
        width = o_proj.in_features // model.config.get_text_config().num_attention_heads
        part = slice(head * width, (head + 1) * width)

        def edit_input(_, args):
            z = args[0].clone()
            z[0, -1, part] = edit(z[0, -1, part])
            return (z,)

        return o_proj.register_forward_pre_hook(edit_input)

    def edit_output(_, args, output):
        output = output.clone()
        output[0, -1] = edit(output[0, -1])
        return output

    module = o_proj if kind == "mha" else model.get_decoder().layers[layer].mlp
    return module.register_forward_hook(edit_output)


@torch.no_grad()
def ablate_one_by_one(
    model: PreTrainedModel,
    inputs: dict,
    positions: list[int],
    targets: list[int],
    modules: bool = False,
    replace: Callable = zero,
) -> Ablated:
    """Log-probabilities: a prefill per target, then per head or module one step on a copy of the cache.

    Args:
        replace: from an output, (d,), its kind, layer, head (None for a module) and position, to what stands in for it.
    """
    n_layers, n_heads = len(attention_modules(model)), model.config.get_text_config().num_attention_heads
    every = [("heads", layer, head) for layer in range(n_layers) for head in range(n_heads)]
    every += [(kind, layer, None) for kind in ("mha", "mlp") for layer in range(n_layers) if modules]
    log_probs = {None: torch.empty(len(positions)), "heads": torch.empty(len(positions), n_layers, n_heads)}
    if modules:
        log_probs |= {kind: torch.empty(len(positions), n_layers) for kind in ("mha", "mlp")}
    for row, (position, target) in enumerate(zip(positions, targets, strict=True)):
        before = {name: value[:, :position] if name in PER_POSITION else value for name, value in inputs.items()}
        prefilled = model(**before, past_key_values=DynamicCache(), use_cache=True).past_key_values
        step = {name: inputs[name][:, position : position + 1] for name in PER_POSITION if name in inputs}
        if "attention_mask" in inputs:
            step["attention_mask"] = inputs["attention_mask"][:, : position + 1]
        for place in [None, *every]:
            cache = deepcopy(prefilled)  # a forward pass appends to the cache that it is given
            if place is not None:
                handle = hook_output(model, *place, lambda output, at=(*place, position): replace(output, *at))
            logits = model(**step, past_key_values=cache, use_cache=True).logits[0, -1]
            if place is None:
                log_probs[None][row] = logits.log_softmax(-1)[target]
            else:
                handle.remove()
                kind, layer, head = place
                log_probs[kind][(row, layer) if head is None else (row, layer, head)] = logits.log_softmax(-1)[target]
    return Ablated(*log_probs.values())


def assert_same(ours: Ablated, expected: Ablated, atol: float = 1e-6) -> None:
    """Probabilities to 1e-6, and their logarithms."""
    for name, values in vars(expected).items():
        if values is None:
            assert getattr(ours, name) is None
            continue
        assert_close(getattr(ours, name), values, atol=1e-4, rtol=1e-4)
        assert_close(getattr(ours, name).exp(), values.exp(), atol=atol, rtol=1e-4)
