"""DAMRO: contrast with a twin whose image is only the patches that the vision tower's class token attends to most."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from llava_hh.baselines.pai import with_image_free_twins
from llava_hh.baselines.settings import FLAG, SHARE, CheckedSettings, at_least, whole
from llava_hh.baselines.stepping import Stepper, TokenIds, decode_rows, pad_id
from llava_hh.baselines.twins import choose_by_contrast, prompt_embeddings, scaled_count
from llava_hh.decoding.method import NO_EDITS, CannotDecode, Edits
from llava_hh.files.module_hooks import hooked
from llava_hh.models.lvlm import Batch, Lvlm


@dataclass(frozen=True)
class DamroSettings(CheckedSettings):
    """Settings of DAMRO.

    Args:
        alpha: weight of the contrast; 0 is greedy decoding, where nothing is drawn.
        beta: tokens less likely than `beta` times the most likely one are out.
        n_outliers: patches that the twin sees, of 576; of an image of others as large a share, rounded, at least one.
        head_mode: "single" reads queries and keys as one head of the tower's width, as the code does; "mean" is the
            mean over the tower's heads.
        do_sample, seed: draw the token, by the sample's id, as the code does, or take the best one.

    Raises:
        ValueError: a field that is not allowed.
    """

    alpha: Annotated[float, at_least(0)] = 2.0
    beta: Annotated[float, SHARE] = 0.1
    n_outliers: Annotated[int, whole(1)] = 10
    head_mode: Literal["single", "mean"] = "single"
    do_sample: Annotated[bool, FLAG] = True
    seed: Annotated[int, whole()] = 42


PRESETS = {"damro": DamroSettings(), "damro_pope": DamroSettings(alpha=0.5)}


def decode(lvlm: Lvlm, batch: Batch, settings: DamroSettings, max_new_tokens: int, edits: Edits = NO_EDITS) -> TokenIds:
    """Decode by DAMRO; a row and its twin go through the model in the same forward.

    Returns: the token ids of each row, without its end token.
    Raises:
        CannotDecode: a model whose image tokens are not the patches of a CLIP tower with a class token.
    Source: Gong et al., "DAMRO: Dive into the Attention Mechanism of LVLM to Reduce Object Hallucination" (EMNLP 2024),
        and its code: ten patches, alpha 2 for captions and 0.5 for POPE, beta 0.1.
    Differs: the code takes the last layer but one of any tower; ours the layer whose output the model reads, which is
        that one in LLaVA-1.5. A row without an image is decoded from its plain logits; the cut stays.
    """
    layer, mask = feature_layer(lvlm), batch.image_mask
    n_image = mask.sum(1)
    n_kept = scaled_count(settings.n_outliers, n_image).minimum(n_image)
    inputs, both = with_image_free_twins(batch.inputs, mask, pad_id(lvlm.model), n_kept)

    with (
        edits.open(lvlm.model, both, torch.arange(len(both)) % 2 == 0),
        class_attention(layer, settings.head_mode) as attended,
        prompt_embeddings(lvlm.model, lambda states: show_outliers(states, both, batch.n_images, attended)),
    ):
        stepper = Stepper(lvlm.model, inputs)
        return decode_rows(stepper, choose_by_contrast(batch, settings), max_new_tokens, copies=2)


def feature_layer(lvlm: Lvlm) -> CLIPEncoderLayer:
    """The layer of the vision tower whose output becomes the image tokens, one a patch.

    Raises:
        CannotDecode: there is none, or its class token does not attend to the patches that the model reads.
    """
    config = lvlm.model.config
    tower = getattr(lvlm.model.base_model, "vision_tower", None)
    layers = [part for part in tower.modules() if isinstance(part, CLIPEncoderLayer)] if tower else []
    index = getattr(config, "vision_feature_layer", None)
    if config.model_type != "llava" or not layers or config.vision_feature_select_strategy != "default":
        raise CannotDecode("DAMRO needs the patches of a CLIP tower with a class token as image tokens, as LLaVA has")
    if not isinstance(index, int) or not -len(layers) <= index <= len(layers) or not index:
        raise CannotDecode(f"DAMRO needs one layer of the vision tower that gives the features, not {index}")
    return layers[index if index < 0 else index - 1]


@contextmanager
def class_attention(layer: CLIPEncoderLayer, head_mode: str) -> Iterator[list[Tensor]]:
    """What the class token pays to each patch, (image, patch) fp32, of each forward of a tower's layer in the block."""
    seen: dict[str, Tensor] = {}
    attended: list[Tensor] = []
    attention = layer.self_attn
    n_heads = 1 if head_mode == "single" else attention.num_heads

    def keep(name: str, _: nn.Module, args: tuple, output: Tensor) -> None:
        seen[name] = output.float().unflatten(-1, (n_heads, -1))  # image token head d_head

    def attend(_: nn.Module, args: tuple, output: object) -> None:
        query, key = seen["q"][:, 0], seen["k"]
        scores = torch.einsum("ihd,ithd->iht", query, key) * key.shape[-1] ** -0.5
        attended.append(scores.softmax(-1).mean(1)[:, 1:])

    with hooked([(attention.q_proj, partial(keep, "q")), (attention.k_proj, partial(keep, "k")), (attention, attend)]):
        yield attended


def show_outliers(states: Tensor, mask: Tensor, n_images: list[int], attended: list[Tensor]) -> Tensor:
    """The embeddings of rows and twins, in which each twin's image positions hold its row's most attended patches.

    Args:
        states: (row, position, d_model), rows and twins side by side; mask: their image positions.
        n_images: of each row, 0 or 1; attended: (image, patch), once, or of no images.
    """
    states, images = states.clone(), chain.from_iterable(attended)
    for row, n in enumerate(n_images):
        if n:
            shown, slots = (mask[index].nonzero()[:, 0].to(states.device) for index in (2 * row, 2 * row + 1))
            order = next(images).argsort(descending=True, stable=True)[: len(slots)].to(states.device)
            states[2 * row + 1, slots] = states[2 * row, shown[order]]
    return states
