"""Greedy decoding by the loop of the other decoders: what each of them comes down to when its settings do nothing."""

from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from baselines.stepping import Stepper, decode_rows
from llava_hh.generation import DecodeContext


@dataclass(frozen=True)
class GreedySettings:
    """Nothing to set."""


PRESETS = {"greedy": GreedySettings()}


def decode(
    model: PreTrainedModel,
    inputs: dict[str, Tensor],
    image_mask: Tensor,
    settings: GreedySettings,
    max_new_tokens: int,
    context: DecodeContext | None = None,
) -> list[list[int]]:
    """The most likely token of every step; token by token what `model.generate(do_sample=False)` gives.

    Args and Returns: as `llava_hh.generation.Decoder`.
    """
    return decode_rows(Stepper(model, inputs), lambda logits: logits.argmax(-1), max_new_tokens)
