"""PAI, paying more attention to the image: scores on image keys raised, and guidance away from the prompt alone."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from transformers import PreTrainedModel

from llava_hh.attention.hooks import intervene
from llava_hh.attention.interventions import BoostImageScores
from llava_hh.attention.modules import attention_modules
from llava_hh.baselines.settings import SHARE, CheckedSettings, Rule, at_least, optional, whole
from llava_hh.baselines.stepping import PER_ROW, Stepper, TokenIds, decode_rows, pad_id
from llava_hh.baselines.twins import NO_POSITIONS, contrast, refuse_cross_attention
from llava_hh.decoding.method import NO_EDITS, CannotDecode, Edits
from llava_hh.heads import Head
from llava_hh.models.lvlm import Batch, Lvlm


@dataclass(frozen=True)
class PaiSettings(CheckedSettings):
    """Settings of PAI.

    Args:
        alpha: a score s of attention to an image key becomes s + alpha |s|; 0 is off.
        gamma: strength of the guidance; 1 is off, and with it the cut-off.
        start_layer, end_layer: all heads of layers start_layer to end_layer - 1 are boosted; None is the last layer.
        beta: under guidance, tokens less likely than `beta` times the most likely one are out.

    Raises:
        ValueError: a field that is not allowed.

    Source: PAI's code and its README: gamma 1.1, layers 2 to 31 of 32, beta fixed at 0.1; alpha 0.2 in every command
        of it. Alpha 0.5 for captions is said to be the paper's; the code does not show it.
    """

    alpha: Annotated[float, at_least(0)] = 0.5
    gamma: Annotated[float, at_least(1)] = 1.1
    start_layer: Annotated[int, whole()] = 2
    end_layer: int | None = None
    beta: Annotated[float, SHARE] = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        is_above = whole(self.start_layer + 1).holds
        self.require(
            "end_layer",
            optional(Rule(f"a whole number above start_layer {self.start_layer}", is_above)),
            self.end_layer,
        )


PRESETS = {"pai": PaiSettings(), "pai_readme": PaiSettings(alpha=0.2)}


def decode(lvlm: Lvlm, batch: Batch, settings: PaiSettings, max_new_tokens: int, edits: Edits = NO_EDITS) -> TokenIds:
    """Decode greedily by PAI; a row and its twin without the image go through the model in the same forward.

    Returns: the token ids of each row, without its end token.
    Raises:
        ValueError: layers that the model does not have.
        CannotDecode: a model that reads its image by cross-attention, where there is no image-free twin.
    Source: Liu et al., "Paying More Attention to Image: A Training-Free Method for Alleviating Hallucination in
        LVLMs" (ECCV 2024), and its code, which boosts the last query row alone and never the image-free prompt.
    Differs: the code takes one image span for the whole batch; ours is per row. With guidance, its scripts leave a
        flag standing that keeps the boost off in each prompt's prefill, so that the first token is not boosted; ours
        is. Both prompts of the code are tokenised apart; ours drops the image's positions from the row.
        The boosted softmax is fp32 here, and so is the guidance. The README advises nucleus sampling; its captioning
        script is greedy by default, as ours is.
    """
    model, inputs, image_mask = lvlm.model, batch.inputs, batch.image_mask
    refuse_cross_attention(model)
    boost, guided = [BoostImageScores(boosted_heads(model, settings), settings.alpha)], settings.gamma != 1
    if guided:
        inputs, image_mask = with_image_free_twins(inputs, image_mask, pad_id(model))

    def choose(logits: Tensor) -> Tensor:
        if guided:
            logits = guide(logits[::2], logits[1::2], settings.gamma, settings.beta)
        return logits.argmax(-1)

    is_clean = torch.arange(len(image_mask)) % (1 + guided) == 0
    boosted = intervene(model, image_mask, boost) if settings.alpha else nullcontext()
    with boosted, edits.open(model, image_mask, is_clean):
        return decode_rows(Stepper(model, inputs), choose, max_new_tokens, copies=1 + guided)


def boosted_heads(model: PreTrainedModel, settings: PaiSettings) -> tuple[Head, ...]:
    """All heads of layers start_layer to end_layer - 1.

    Raises:
        ValueError: layers that the model does not have.
    """
    modules = attention_modules(model)
    end = len(modules) if settings.end_layer is None else settings.end_layer
    if not settings.start_layer < end <= len(modules):
        asked = f"layers {settings.start_layer} to {end - 1}"
        raise ValueError(f"PAI boosts {asked}; the model has 0 to {len(modules) - 1}")
    layers, n_heads = range(settings.start_layer, end), modules[0].config.num_attention_heads
    return tuple(Head(layer, head) for layer in layers for head in range(n_heads))


def guide(shown: Tensor, blind: Tensor, gamma: float, beta: float) -> Tensor:
    """gamma log p(shown) - (gamma - 1) log p(blind), and -inf where p(shown) is below beta times its maximum.

    Args:
        shown, blind: logits (row, vocabulary) with the image and without.
    """
    return contrast(shown.log_softmax(-1), blind.log_softmax(-1), gamma - 1, beta)


def with_image_free_twins(
    inputs: dict[str, Tensor], image_mask: Tensor, pad: int, n_kept: Tensor | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """The inputs with every row twice, side by side: as it is, and without its image positions.

    What stands before an image moves up to what stands after it, and the twin is padded on the left. The images stay
    one per image: a twin shows none.

    Args:
        n_kept: of each row's image positions the first so many stay in the twin, (row,), and hold padding; None: none.
    Returns: the inputs, and their image_mask, in the twins True at what stays.
    Raises:
        CannotDecode: a model that reads its image by cross-attention.
    """
    if "cross_attention_mask" in inputs:
        raise CannotDecode(NO_POSITIONS)
    twins = {name: rows.repeat_interleave(2, 0) for name, rows in inputs.items() if name in PER_ROW}
    twins.pop("position_ids", None)  # the twins have others; those of all rows follow from the attention mask
    dropped = image_mask.repeat_interleave(2, 0)
    dropped[::2] = False
    stays = torch.zeros_like(dropped)
    if n_kept is not None:
        stays[1::2] = image_mask & (image_mask.cumsum(1) <= n_kept[:, None])
    mask = twins.get("attention_mask", torch.ones_like(dropped, dtype=torch.long)).masked_fill(dropped & ~stays, 0)
    twins["attention_mask"] = mask
    if "input_ids" in twins:
        twins["input_ids"] = twins["input_ids"].masked_fill(dropped, pad)
    order = mask.argsort(dim=1, stable=True)  # what is not seen goes to the left; left-padded rows keep their order
    for name, rows in twins.items():
        twins[name] = rows.gather(1, order.view(*order.shape, *[1] * (rows.dim() - 2)).expand_as(rows))
    per_image = {name: tensor for name, tensor in inputs.items() if name not in PER_ROW}
    shown = (image_mask.repeat_interleave(2, 0) & ~dropped) | stays.gather(1, order)
    return {**per_image, **twins}, shown
