"""Pieces that slow second computations of decoders share."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from llava_hh.attention.modules import decoder_layers
from llava_hh.baselines.sampling import draw_tokens, sample_generator
from tests.support.decoding import ids_of


@contextmanager
def with_embeddings(model: PreTrainedModel, change: Callable[[Tensor], None]) -> Iterator[None]:
    """Change what enters the first layer, in place, in every forward."""

    def edit(_: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        states = (args[0] if args else kwargs["hidden_states"]).clone()
        change(states)
        return ((states, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states})

    hook = decoder_layers(model)[0].register_forward_pre_hook(edit, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def drawn_or_best(shown: Tensor, twin: Tensor, settings: Any, row: int, n_before: int) -> int:
    """The next token by the contrast of logits (vocabulary,), token by token."""
    cut = shown.max().item() + math.log(settings.beta)
    scores = [
        (1 + settings.alpha) * a - settings.alpha * b if a >= cut else -math.inf
        for a, b in zip(shown.tolist(), twin.tolist(), strict=True)
    ]
    return pick(torch.tensor(scores, dtype=torch.float64), settings, row, n_before)


def pick(scores: Tensor, settings: Any, row: int, n_before: int) -> int:
    """The best token, or the one that the row's generator draws after `n_before` others."""
    if not settings.do_sample:
        return scores.argmax().item()
    generator = sample_generator(settings.seed, ids_of(1, row)[0], "tokens")
    torch.rand(n_before, generator=generator)
    return draw_tokens(scores[None], [generator]).item()
