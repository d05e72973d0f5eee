"""Batches for the tests of decoders, a model whose rows end, and a slow reference: full uncached forwards."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from llava_hh.baselines.registry import PRESETS
from llava_hh.decoding.method import Answer, Decoding
from llava_hh.models.lvlm import Batch, Lvlm
from tests.support.tiny import IMAGE_TOKEN, TinyBatch, llava_batch

ROWS = [[3, "image", 6], [11], [5, "image"], ["image", 2], [1], [7, "image", 9], [2, "image", 1], [4]]
MEANS, SPREADS = [0.4, 0.5, 0.6], [0.2, 0.25, 0.5]
PROCESSOR = SimpleNamespace(image_processor=SimpleNamespace(image_mean=MEANS, image_std=SPREADS, do_normalize=True))


def eight_rows(dtype: torch.dtype = torch.float32) -> TinyBatch:
    """Eight left-padded prompts of 1 to 20 positions, five of them with an image at another place."""
    batch = llava_batch(ROWS, seed=4)
    batch.inputs["pixel_values"] = batch.inputs["pixel_values"].to(dtype)
    return batch


def ids_of(n_rows: int, first: int = 0) -> list[str]:
    return [f"sample {number}" for number in range(first, first + n_rows)]


def as_batch(batch: TinyBatch, ids: list | None = None) -> Batch:
    """What decoders take; the images of a batch are equally long."""
    n_rows = len(batch.image_mask)
    n_images = len(batch.inputs.get("pixel_values", ()))
    length = int(batch.image_mask.sum()) // max(n_images, 1)
    shown = [int(own) // length if length else 0 for own in batch.image_mask.sum(1)]
    starts = [batch.image_mask.shape[1]] * n_rows
    names = ids_of(n_rows) if ids is None else ids
    return Batch(batch.inputs, batch.image_mask, starts, names, [None] * n_rows, [""] * n_rows, shown)


def as_lvlm(model: PreTrainedModel, processor: Any = PROCESSOR) -> SimpleNamespace:
    return SimpleNamespace(model=model, processor=processor, family=None)


def preset(name: str, **changed: Any) -> Decoding:
    """A preset as a method, with some of its settings changed."""
    module, settings = PRESETS[name]
    return Decoding(name, module.decode, replace(settings, **changed))


def answers_of(lvlm: Lvlm, batch: Batch, decode: Callable, settings: object, n_tokens: int) -> list[Answer]:
    """What a decoder answers to a batch, as the harness asks it."""
    return Decoding("tried", decode, settings).answer(lvlm, batch, n_tokens).answers


def single_rows(batch: TinyBatch) -> Iterator[tuple[TinyBatch, list[str]]]:
    """Every row on its own, without padding, and its id; a row has one image or none."""
    images = iter(batch.inputs["pixel_values"].split(1))
    for row, real in enumerate(batch.real):
        inputs = {name: batch.inputs[name][row : row + 1, real] for name in ("input_ids", "attention_mask")}
        mask = batch.image_mask[row : row + 1, real]
        if mask.any():
            inputs["pixel_values"] = next(images)
        yield TinyBatch(inputs, mask), ids_of(1, row)


@contextmanager
def generation_settings(model: PreTrainedModel, **settings) -> Iterator[None]:
    """Change what the model's generation config says while the block is open."""
    before = {name: getattr(model.generation_config, name) for name in settings}
    try:
        for name, value in settings.items():
            setattr(model.generation_config, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(model.generation_config, name, value)


def double(model: PreTrainedModel) -> PreTrainedModel:
    """A copy in fp64, in which no two tokens are closer than rounding, and which never says the image token."""
    copied = deepcopy(model).double()
    copied.generation_config.suppress_tokens = [IMAGE_TOKEN]
    return copied


@torch.no_grad()
def generated(model: PreTrainedModel, batch: TinyBatch, n_tokens: int) -> list[list[int]]:
    """What transformers' own greedy search answers, end tokens and what follows them cut off."""
    prompt = 0 if "inputs_embeds" in batch.inputs else batch.inputs["input_ids"].shape[1]
    ids = model.generate(**batch.inputs, max_new_tokens=n_tokens, do_sample=False)[:, prompt:].tolist()
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return [row[: next((place for place, token in enumerate(row) if token in ends), None)] for row in ids]


@torch.no_grad()
def slow_decode(
    model: PreTrainedModel,
    batch: TinyBatch,
    n_tokens: int,
    choose: Callable[[int, TinyBatch, list[int]], int],
) -> list[list[int]]:
    """One row at a time, one whole forward (or what `choose` does) per token; no cache, no padding, no end token."""
    answers = []
    for row, (alone, _) in enumerate(single_rows(batch)):
        answer: list[int] = []
        for _ in range(n_tokens):
            answer.append(choose(row, alone, answer))
        answers.append(answer)
    return answers


def last_logits(model: PreTrainedModel, alone: TinyBatch, answer: list[int], **changed: Tensor) -> Tensor:
    """Logits (vocabulary,) after a prompt without padding and the answer so far; -inf for the image token."""
    logits = forward(model, alone, answer, **changed).logits[0, -1]
    logits[IMAGE_TOKEN] = -torch.inf
    return logits


def forward(model: PreTrainedModel, alone: TinyBatch, answer: list[int], **changed: Any) -> ModelOutput:
    """One forward, uncached unless told otherwise, over a prompt without padding and the answer so far."""
    inputs = {**alone.inputs, "use_cache": False, **changed}
    ids = torch.cat([inputs["input_ids"], torch.tensor([answer], dtype=torch.long)], 1)
    return model(**{**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)})


def assert_ends_and_suppressed_ids(model, decode) -> None:
    """A decoder stops at the model's end token and never takes a suppressed one; `decode` gives each row's tokens."""
    batch = eight_rows()
    free = decode(batch)
    with generation_settings(model, suppress_tokens=[row[0] for row in free]):
        assert all(not set(row) & {row[0] for row in free} for row in decode(batch))
    with generation_settings(model, eos_token_id=free[0][2], pad_token_id=0):
        assert decode(batch)[0] == free[0][: free[0].index(free[0][2])]
