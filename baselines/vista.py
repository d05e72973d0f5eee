"""VISTA: every layer is steered by what the image adds to it, and late layers have a say in the next word."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from llava_hh.attention.modules import decoder_layers
from llava_hh.attribution.outputs import mlp_of
from llava_hh.baselines.lens import RANGE, layers_of
from llava_hh.baselines.pai import with_image_free_twins
from llava_hh.baselines.settings import FRACTION, CheckedSettings, at_least
from llava_hh.baselines.stepping import Stepper, TokenIds, decode_rows, pad_id
from llava_hh.decoding.method import NO_EDITS, Edits
from llava_hh.files.module_hooks import hooked
from llava_hh.models.lvlm import Batch, Lvlm
from llava_hh.steering.turning import turning

MIXED = (25, 30)  # layers of 32 whose outputs have a say, both included


@dataclass(frozen=True)
class VistaSettings(CheckedSettings):
    """Settings of VISTA.

    Args:
        strength: of the steering (lambda); 0 is off.
        mix: share of the late layers' mean logits (gamma); 0 is off.
        layers: the first and the last of these; None is 25 to 30 of 32, and of other depths the same share: the first
            rounded up, the last down.

    Raises:
        ValueError: a field that is not allowed.
    """

    strength: Annotated[float, at_least(0)] = 0.17
    mix: Annotated[float, FRACTION] = 0.3
    layers: Annotated[tuple[int, int] | None, RANGE] = None


PRESETS = {"vista": VistaSettings(), "vista_pope": VistaSettings(strength=0.01)}


def decode(lvlm: Lvlm, batch: Batch, settings: VistaSettings, max_new_tokens: int, edits: Edits = NO_EDITS) -> TokenIds:
    """Decode greedily by VISTA. A pass over the prompt with the image and without comes first, under no edits.

    Returns: the token ids of each row, without its end token.
    Raises:
        ValueError: layers that the model does not have, or none of 32 that fall into its depth.
        CannotDecode: a model that reads its image by cross-attention.
    Source: Li et al., "The Hidden Life of Tokens: Reducing Hallucination of Large Vision-Language Models via Visual
        Information Steering" (ICML 2025), and its code: 0.17 for captions, 0.01 for POPE.
    Differs: the code sends the one difference of a sample through a principal component analysis, which adds an
        arbitrary unit vector; ours is the difference. It asserts a batch of one row, and halves the precision; ours is
        per row. The prompt without the image lacks the image's positions; the code tokenises what stands before and
        after them apart. A row without an image has nothing to be steered by.
    """
    model = lvlm.model
    layers = layers_of(len(decoder_layers(model)), MIXED, settings.layers, "VISTA") if settings.mix else []
    vectors = image_vectors(lvlm, batch) if settings.strength else []
    stepper, head = Stepper(model, batch.inputs), model.get_output_embeddings()

    def choose(logits: Tensor) -> Tensor:
        if layers:
            states = torch.stack([outputs[layer].to(logits.device) for layer in layers])
            said = stepper.suppress(head(states)).to(logits.device).mean(0)  # not normed, as in the code
            logits = (1 - settings.mix) * logits + settings.mix * said
        return logits.argmax(-1)

    with (
        edits.open(model, batch.image_mask),
        last_outputs(model, layers) as outputs,
        steered(model, vectors, settings.strength),
    ):
        return decode_rows(stepper, choose, max_new_tokens)


@contextmanager
def last_outputs(model: nn.Module, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Keep, while the block is open, the last position of each layer's output, (row, d_model), not normed."""
    kept: dict[int, Tensor] = {}
    modules = decoder_layers(model)

    def keep(layer: int, _: nn.Module, args: tuple, output: Any) -> None:
        kept[layer] = (output[0] if isinstance(output, tuple) else output)[:, -1].clone()

    with hooked((modules[layer], partial(keep, layer)) for layer in layers):
        yield kept


@torch.no_grad()
def image_vectors(lvlm: Lvlm, batch: Batch) -> list[Tensor]:
    """What the image adds to each layer's output at the last position of the prompt: by layer (row, d_model), fp32.

    Raises:
        CannotDecode: a model that reads its image by cross-attention.
    """
    inputs, _ = with_image_free_twins(batch.inputs, batch.image_mask, pad_id(lvlm.model))
    n_layers = len(decoder_layers(lvlm.model))
    with last_outputs(lvlm.model, range(n_layers)) as outputs:
        Stepper(lvlm.model, inputs).step()
    shown = batch.image_mask.any(-1, keepdim=True)
    return [
        (outputs[layer][::2] - outputs[layer][1::2]).float() * shown.to(outputs[layer].device)
        for layer in range(n_layers)
    ]


@contextmanager
def steered(model: nn.Module, vectors: Sequence[Tensor], strength: float) -> Iterator[None]:
    """Turn what each layer's MLP gives, at every position, towards the layer's vectors; its length stays.

    Args:
        vectors: by layer (row, d_model); a vector of zeros turns nothing. Empty: nothing is steered.
    """

    def pull(vector: Tensor, x: Tensor) -> Tensor:
        towards = vector.to(x.device)[:, None]
        away = cosine_similarity(x, -towards, dim=-1).clamp(min=0)[..., None]
        return strength * (1 + away) * normalize(towards, dim=-1)

    modules = decoder_layers(model) if vectors else []
    with turning((mlp_of(layer), partial(pull, vector)) for layer, vector in zip(modules, vectors, strict=True)):
        yield
