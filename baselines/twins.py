"""The contrast of a row with its twin, which the model reads in the same forward: what VCD, PAI and others share."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, chain, pairwise
from typing import Protocol

import torch
from PIL.Image import Image
from torch import Tensor, nn
from transformers import PreTrainedModel

from llava_hh.attention.modules import decoder_layers, heads_on_image_alone
from llava_hh.baselines.sampling import Drawn, next_token
from llava_hh.baselines.stepping import PER_ROW
from llava_hh.decoding.method import CannotDecode
from llava_hh.files.module_hooks import hooked
from llava_hh.models.lvlm import Batch, Lvlm

IMAGE_OF_7B = 24 * 24  # tokens of an image, of the models that papers chose their numbers on


NO_POSITIONS = "no image positions to drop or hide: this model reads its image by cross-attention"


def refuse_cross_attention(model: PreTrainedModel) -> None:
    """Check that images stand among the positions of a prompt.

    Raises:
        CannotDecode: a model that reads its image by cross-attention.
    """
    if heads_on_image_alone(model):
        raise CannotDecode(NO_POSITIONS)


def contrast(clean: Tensor, twin: Tensor, alpha: float, beta: float) -> Tensor:
    """(1 + alpha) clean - alpha twin, and -inf where clean falls below its maximum plus log beta.

    Args:
        clean, twin: logits or log-probabilities (row, vocabulary) of the rows and of their twins.
        beta: from 0, which leaves out suppressed ids alone, to 1.
    """
    # a suppressed id is -inf in both, and their difference is NaN
    return ((1 + alpha) * clean - alpha * twin).masked_fill(below_cut(clean, beta), -torch.inf)


def below_cut(scores: Tensor, beta: float) -> Tensor:
    """Which tokens are less likely than `beta` times the most likely one, (row, vocabulary) bool; -inf always is."""
    return scores < (scores.amax(-1, keepdim=True) + math.log(beta) if beta else torch.finfo(scores.dtype).min)


def scaled_count(n: int, n_image: Tensor) -> Tensor:
    """A number of an image's tokens that a paper names for 576 of them: as large a share, rounded, at least one.

    Args:
        n_image: (row,) how many tokens each row's image has.
    """
    return (n * n_image / IMAGE_OF_7B).round().long().clamp(min=1)


class Contrasted(Drawn, Protocol):
    """Settings of the contrast of a row with its twin, see `contrast`."""

    alpha: float
    beta: float


def choose_by_contrast(batch: Batch, settings: Contrasted) -> Callable[[Tensor], Tensor]:
    """A function from the logits of rows and twins, side by side, to the next tokens: the best, or drawn."""
    take = next_token(batch, settings)
    return lambda logits: take(contrast(logits[::2], logits[1::2], settings.alpha, settings.beta))


def asked_twice(lvlm: Lvlm, batch: Batch, images: Sequence[Image | None], prompts: Sequence[str], what: str) -> Batch:
    """Rows and twins side by side, encoded anew: a row as it is, then its twin with another image or question.

    Args:
        images, prompts: of the twins; what: the method, for the error.
    Raises:
        CannotDecode: a batch of more than the question, such as one with answers.
    """
    if set(batch.response_start) != {batch.image_mask.shape[1]}:
        raise CannotDecode(f"{what} asks the questions of a batch anew, which has answers already")
    pairs = [zip(batch.images, images, strict=True), zip(batch.prompts, prompts, strict=True)]
    pairs.append(zip(batch.sample_ids, batch.sample_ids, strict=True))
    shown, asked, ids = ([*chain.from_iterable(each)] for each in pairs)
    return lvlm.encode(shown, asked, sample_ids=ids)


@contextmanager
def prompt_embeddings(model: PreTrainedModel, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Change what enters the first layer, (row, position, d_model), in the first forward while the block is open."""
    changed = []

    def edit(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if changed:
            return None
        changed.append(True)
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    with hooked([(decoder_layers(model)[0], edit)], before=True, with_kwargs=True):
        yield


def with_twins(lvlm: Lvlm, batch: Batch, change: Callable[[Tensor, object], Tensor] | None = None) -> dict[str, Tensor]:
    """The inputs with every row twice, side by side as beams stand; the second has its images changed, where asked.

    Args:
        change: from the pixels (..., channel, height, width) of a row, and its sample's id, to its twin's.
    Raises:
        CannotDecode: images to change without pixel_values; tiles of different lengths.
    """
    inputs = batch.inputs
    if change and batch.image_mask.any() and "pixel_values" not in inputs:
        raise CannotDecode(f"a twin's pixel_values are changed, which the inputs lack; they hold {', '.join(inputs)}")
    twins = {name: tensor.repeat_interleave(2, 0) for name, tensor in inputs.items() if name in PER_ROW}
    others = [name for name in inputs if name not in PER_ROW]
    if not others:
        return twins
    changed = inputs["pixel_values"].clone()
    pixels, lengths = changed[None], [1] * len(changed)
    if read := getattr(lvlm.family, "image_pixels", None):
        pixels, lengths = read(lvlm.processor, {**inputs, "pixel_values": changed})
    entries = entries_per_row(batch.image_mask, batch.n_images, lengths)
    for row, sample_id in zip(pixels.split(entries, 1), batch.sample_ids, strict=True) if change else ():
        row.copy_(change(row[0], sample_id))
    for name in others:
        counts, twin = (entries, changed) if name == "pixel_values" else (batch.n_images, inputs[name])
        pairs = zip(inputs[name].split(counts), twin.split(counts), strict=True)
        twins[name] = torch.cat([*chain.from_iterable(pairs)])
    return twins


def entries_per_row(image_mask: Tensor, n_images: Sequence[int], lengths: Sequence[int]) -> list[int]:
    """How many entries of pixel_values each row shows; they stand in the order of the rows.

    Args:
        n_images: how many images each row shows.
        lengths: how many entries each image has. Where there are more of them than images, an image is shown in
            several tiles, all with the same number of positions, and the rows' positions say how many.
    Raises:
        CannotDecode: tiles of different lengths.
    """
    if len(lengths) == sum(n_images):
        return [sum(lengths[first:end]) for first, end in pairwise(accumulate(n_images, initial=0))]
    positions = image_mask.sum(1).tolist()
    length, rest = divmod(sum(positions), len(lengths))
    if rest or not length or any(number % length for number in positions):
        raise CannotDecode(f"{len(lengths)} images cannot be dealt to rows of {positions} image positions")
    return [number // length for number in positions]
