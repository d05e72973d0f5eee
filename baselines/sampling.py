"""Random draws that belong to a sample: the same in every batch, on every device, for any number of processes."""

import hashlib
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Protocol

import torch
from torch import Generator, Tensor
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from llava_hh.models.lvlm import Batch


def sample_generator(seed: int, sample_id: object, purpose: str) -> Generator:
    """A generator of the CPU for one sample and one purpose; `sample_id` counts by its text, so 7 is "7"."""
    digest = hashlib.sha256(f"{seed} {purpose} {sample_id}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:7], "big"))


class Drawn(Protocol):
    """Settings of a decoder that takes the best token, or draws one."""

    do_sample: bool
    seed: int


def next_token(batch: Batch, settings: Drawn) -> Callable[[Tensor], Tensor]:
    """A function from scores (row, vocabulary) to the next tokens, (row,): the best, or drawn by the sample's id."""
    if not settings.do_sample:
        return lambda scores: scores.argmax(-1)
    generators = [sample_generator(settings.seed, sample_id, "tokens") for sample_id in batch.sample_ids]
    return lambda scores: draw_tokens(scores, generators)


def warped(scores: Tensor, temperature: float, top_k: int | None, top_p: float | None) -> Tensor:
    """Scores (row, vocabulary) as they are drawn from: transformers' warpers, in its order; None is off."""
    warpers = [TemperatureLogitsWarper(temperature)] if temperature != 1 else []
    warpers += [TopKLogitsWarper(top_k)] if top_k is not None else []
    warpers += [TopPLogitsWarper(top_p)] if top_p is not None and top_p < 1 else []
    return reduce(lambda shaped, warper: warper(None, shaped), warpers, scores)


def draw_tokens(scores: Tensor, generators: Sequence[Generator]) -> Tensor:
    """Draw one token per row from softmax(scores), with one number from each row's own generator.

    Args:
        scores: (row, vocabulary); -inf is never drawn.
    Returns: (row,) ids.
    """
    # torch.rand in fp32 is at most 1 - 2^-24, so in fp64 the product below stays under the total
    numbers = torch.cat([torch.rand(1, generator=generator) for generator in generators]).double()
    heights = scores.double().softmax(-1).cumsum(-1)
    return torch.searchsorted(heights, numbers.to(heights.device)[:, None] * heights[:, -1:], right=True)[:, 0]
