"""The direct effect of a head: what its own term in the final residual does to a target, without later layers."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llava_hh.attention.modules import attention_modules, decoder_layers

# norms between o_proj and the residual: Gemma 2 and 3, Olmo 2, GLM-4
NORMS_AFTER = ("pre_feedforward_layernorm", "post_feedforward_layernorm", "post_self_attn_layernorm")
GATE = "cross_attn_attn_gate"  # of Mllama's cross attention
MULTIPLIER = "residual_multiplier"  # of Granite


def has_direct_terms(model: PreTrainedModel) -> bool:
    """Whether a head's output reaches the residual as a term of its own: no norm follows o_proj in any layer.

    One does in Gemma 3 and in Chameleon-30B. Where q_proj is wider than o_proj's input, as in Qwen3-Next, a part of it
    gates the heads' outputs, whose terms are then not known either.
    """
    gated = any(
        hasattr(attention, "q_proj") and attention.q_proj.out_features != attention.o_proj.in_features
        for attention in attention_modules(model).values()
    )
    return not gated and not any(
        type(layer).__name__ == "ChameleonSwinDecoderLayer" or any(hasattr(layer, name) for name in NORMS_AFTER)
        for layer in decoder_layers(model)
    )


@torch.no_grad()
def without_terms(
    layers: Sequence[nn.Module],
    attentions: Sequence[nn.Module],
    final: Tensor,
    lost: Mapping[int, Tensor],
    heads_of: Mapping[int, Sequence[int]],
) -> Tensor:
    """The final residual without each head's term, (row, 1, d_model): layer by layer, target by target, head by head.

    Args:
        layers, attentions: all decoder layers and their attention modules.
        final: the clean residual behind the last layer, before the final norm, (target, 1, d_model).
        lost: by layer, what heads' outputs lose, (target, head, d_head).
        heads_of: by layer, which heads these are.
    """
    rows = []
    for layer, outputs in lost.items():
        n_targets, count, d_head = outputs.shape
        alone = outputs.new_zeros(n_targets, count, attentions[layer].o_proj.in_features // d_head, d_head)
        alone[:, range(count), list(heads_of[layer])] = outputs
        terms = through(attentions[layer].o_proj, alone.flatten(2)) * gate(layers[layer])
        rows.append((final.float() - terms.float().to(final.device)).flatten(0, 1))
    return torch.cat(rows)[:, None].to(final.dtype)


def through(o_proj: nn.Module, inputs: Tensor) -> Tensor:
    """What o_proj makes of its inputs, without its bias: quantized and adapted layers too."""
    return o_proj(inputs) - o_proj(inputs.new_zeros(1, 1, inputs.shape[-1]))


def gate(layer: nn.Module) -> Tensor | float:
    """What the layer multiplies its attention's output by before it adds it to the residual."""
    return getattr(layer, GATE).tanh() if hasattr(layer, GATE) else getattr(layer, MULTIPLIER, 1.0)
