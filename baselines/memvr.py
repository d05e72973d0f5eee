"""MemVR: where an inner layer is unsure of the next word, the next layer looks at the image again, inside its MLP."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from llava_hh.attention.modules import decoder_layers
from llava_hh.attribution.outputs import mlp_of
from llava_hh.baselines.lens import RANGE, final_norm, layers_of
from llava_hh.baselines.settings import FRACTION, CheckedSettings, at_least
from llava_hh.baselines.stepping import Stepper, TokenIds, decode_rows
from llava_hh.baselines.twins import refuse_cross_attention
from llava_hh.files.module_hooks import hooked
from llava_hh.models.lvlm import Batch, Lvlm

WATCHED = (6, 15)  # layers of 32 that may be unsure, both included
MOST_LIKELY = 10  # tokens whose entropy counts


@dataclass(frozen=True)
class MemvrSettings(CheckedSettings):
    """Settings of MemVR.

    Args:
        ratio: share of what the image gives in the MLP's output; 0 is greedy decoding.
        unsure: a layer is unsure where the entropy of its ten likeliest tokens, over its largest value, is above this;
            1 is never.
        layers: the first and the last layer that may be unsure; None is 6 to 15 of 32, and of other depths the same
            share: the first rounded up, the last down.

    Raises:
        ValueError: a field that is not allowed.
    """

    ratio: Annotated[float, FRACTION] = 0.12
    unsure: Annotated[float, at_least(0)] = 0.75
    layers: Annotated[tuple[int, int] | None, RANGE] = None


PRESETS = {"memvr": MemvrSettings()}


def decode(lvlm: Lvlm, batch: Batch, settings: MemvrSettings, max_new_tokens: int) -> TokenIds:
    """Decode greedily by MemVR.

    Returns: the token ids of each row, without its end token.
    Raises:
        ValueError: layers that the model does not have, or of which the last one has no next.
        CannotDecode: a model that reads its image by cross-attention, or whose final norm is not known.
    Source: Zou et al., "Look Twice Before You Answer: Memory-Space Visual Retracing for Hallucination Mitigation in
        Multimodal Large Language Models" (ICML 2025), and its code: 0.12 and 0.75.
    Differs: the code sums the entropies of a batch, and runs the vocabulary on every position of every layer; ours is
        per row, on the last position of the layers that may be unsure. Means are without padding. A row without an
        image has nothing to look at; the code looks at the last image that it has seen.
    """
    refuse_cross_attention(lvlm.model)
    modules = decoder_layers(lvlm.model)
    layers = layers_of(len(modules), WATCHED, settings.layers, "MemVR")
    if layers[-1] + 1 == len(modules):
        raise ValueError(f"MemVR looks again in the layer after {layers[-1]}, which is the last")
    stepper = Stepper(lvlm.model, batch.inputs)
    mask = batch.inputs.get("attention_mask", torch.ones_like(batch.image_mask))
    with looking_again(lvlm.model, layers, batch.image_mask, mask.bool(), settings):
        return decode_rows(stepper, lambda logits: logits.argmax(-1), max_new_tokens)


@dataclass
class _Memory:
    """What the forwards of a batch share: features (row, image token, d_model), and which rows look again."""

    features: Tensor | None = None
    has_looked: Tensor | None = None
    looks: dict[int, Tensor] = field(default_factory=dict)  # by layer, (row,)
    is_prompt: bool = True


@contextmanager
def looking_again(
    model: nn.Module, layers: Sequence[int], image_mask: Tensor, seen: Tensor, settings: MemvrSettings
) -> Iterator[None]:
    """Edit the forwards of a batch while the block is open, the first of them over its prompt.

    Args:
        layers: those that may be unsure; image_mask, seen: (row, position) bool, of the prompt; what is not seen is
            padding.
    """
    memory, modules = _Memory(), decoder_layers(model)
    norm, head = final_norm(model), model.get_output_embeddings()

    def begin(_: nn.Module, args: tuple, kwargs: dict) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        memory.is_prompt = memory.features is None
        if memory.is_prompt:
            shown = image_mask.to(hidden.device)
            order = (~shown).long().argsort(dim=1, stable=True)[:, : max(1, int(shown.sum(1).max()))]
            rows = hidden.gather(1, order[..., None].expand(-1, -1, hidden.shape[-1]))
            memory.features = rows * shown.gather(1, order)[..., None]
        memory.has_looked = ~image_mask.any(1).to(hidden.device)  # nothing to look at
        memory.looks.clear()

    def ask(layer: int, _: nn.Module, args: tuple, output: Any) -> None:
        hidden = (output[0] if isinstance(output, tuple) else output)[:, -1]
        likely = head(norm(hidden)).float().topk(MOST_LIKELY).values.log_softmax(-1)
        entropy = -(likely.exp() * likely).sum(-1) / math.log(MOST_LIKELY)
        looked = memory.has_looked.to(entropy.device)
        memory.looks[layer + 1] = (entropy > settings.unsure) & ~looked
        memory.has_looked = looked | memory.looks[layer + 1]

    def look(layer: int, _: nn.Module, args: tuple, output: Tensor) -> Tensor:
        looks = memory.looks[layer].to(output.device)
        if not looks.any():
            return output
        features, inputs = memory.features.to(output.device).float(), args[0].float()
        found = inputs @ features.transpose(1, 2) @ features  # row position d_model
        counted = (seen if memory.is_prompt else seen.new_ones(len(looks), 1)).to(output.device)[..., None]
        sizes = [(each.abs() * counted).sum((1, 2)) for each in (output.float(), found)]
        scale = (sizes[0] / sizes[1].clamp(min=torch.finfo(torch.float32).tiny))[:, None, None]
        mixed = (1 - settings.ratio) * output.float() + settings.ratio * scale * found
        return torch.where(looks[:, None, None], mixed.to(output.dtype), output)

    asked = [(modules[layer], partial(ask, layer)) for layer in layers]
    answering = [(mlp_of(modules[layer + 1]), partial(look, layer + 1)) for layer in layers]
    with hooked([(modules[0], begin)], before=True, with_kwargs=True), hooked(asked + answering):
        yield
