"""Vision towers that read every image as the same tokens, such as CLIP's: their layers, states, and damaged images."""

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from llava_hh.files.module_hooks import hooked

LIKE_CLIP = ("clip_vision_model", "siglip_vision_model", "blip_2_vision_model")


class Tower(NamedTuple):
    """A vision tower: its module, which takes pixels (tile, channel, height, width); its encoder layers; its sizes.

    An image has several tiles where its family cuts it up, and else one.
    """

    module: nn.Module
    layers: list[nn.Module]
    n_tokens: int  # of a tile, with the class token where there is one
    width: int
    patch: int  # pixels

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.layers), self.n_tokens, self.width


def tower_of(model: PreTrainedModel) -> Tower | None:
    """A model's vision tower; None where it is not like CLIP's, such as one that joins patches of any number."""
    config = getattr(model.config, "vision_config", None)
    if getattr(config, "model_type", None) not in LIKE_CLIP:
        return None
    parts = [part for part in model.modules() if type(getattr(part, "config", None)) is type(config)]
    [layers] = [part.layers for part in parts if isinstance(getattr(part, "layers", None), nn.ModuleList)]
    [n_tokens] = {part.num_positions for part in parts if hasattr(part, "num_positions")}
    return Tower(parts[0], [*layers], n_tokens, config.hidden_size, config.patch_size)


@torch.no_grad()
def encoder_states(tower: Tower, pixels: Tensor) -> Tensor:
    """What enters the first encoder layer, and what each layer gives: (tile, layer + 1, token, width), fp32."""
    states: dict[int, Tensor] = {}

    def enter(_: nn.Module, args: tuple, kwargs: dict) -> None:
        states[0] = args[0] if args else kwargs["hidden_states"]

    def keep(number: int, _: nn.Module, args: tuple, output: Any) -> None:
        states[number] = output[0] if isinstance(output, tuple) else output

    outputs = [(layer, partial(keep, number)) for number, layer in enumerate(tower.layers, 1)]
    with hooked([(tower.layers[0], enter)], before=True, with_kwargs=True), hooked(outputs):
        tower.module(pixels)
    return torch.stack([states[number].float().to(pixels.device) for number in sorted(states)], 1)


def damaged(pixels: Tensor, patch: int, share: float, n_copies: int, rng: np.random.Generator) -> Tensor:
    """Copies of an image (tile, channel, height, width), most of whose patches have its channels' means.

    Args:
        share: of the patches of each tile that are replaced, rounded down; which, is drawn for each copy and tile.
    Returns: (copy * tile, channel, height, width), the tiles of a copy side by side.
    Raises:
        ValueError: a share that hides no patch.
    Source: VTI's code: 570 of 576 patches, 99 percent.
    """
    n_tiles, (rows, columns) = len(pixels), (side // patch for side in pixels.shape[-2:])
    if not (n_hidden := math.floor(share * rows * columns)):
        raise ValueError(f"a share of {share} hides none of {rows * columns} patches; give a larger one (--masked)")
    order = rng.random((n_copies * n_tiles, rows * columns)).argsort(1)
    hidden = torch.from_numpy(order < n_hidden).view(-1, 1, rows, columns)
    hidden = hidden.repeat_interleave(patch, 2).repeat_interleave(patch, 3).to(pixels.device)
    rest = [pixels.shape[-1] - hidden.shape[-1], pixels.shape[-2] - hidden.shape[-2]]  # what no patch covers
    copies = pixels.repeat(n_copies, 1, 1, 1)
    return torch.where(pad(hidden, (0, rest[0], 0, rest[1])), copies.mean((-2, -1), keepdim=True), copies)
