"""Loading a model, captioning with it, and editing or recording its attention, for people who write Python."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL.Image import Image
from torch import Tensor

from llava_hh.files.images import rgb_image
from llava_hh.models.loading import Loading, check_dtype
from llava_hh.models.lvlm import DESCRIBE, Batch, Lvlm, load_lvlm

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llava_hh.attention.interventions import Intervention
    from llava_hh.attention.trace import Trace
    from llava_hh.decoding.method import Method


def load(
    path: str | Path, dtype: str | torch.dtype | None = None, device_map: str | dict[str, Any] | None = None
) -> Lvlm:
    """Load a checkpoint, in the transformers layout or LLaVA's own.

    Args:
        path: a folder, or a text org/name[@revision]: a repository of the hub, of the local cache or else fetched.
        dtype: such as "bfloat16" or torch.bfloat16; device_map: such as "auto". None: the environment variables
            DTYPE and DEVICE_MAP, or else the checkpoint's type, on the GPU if there is one.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: a family that is not known, weights that are missing, left over or damaged, or no such dtype.
        OSError: a repository that cannot be fetched.
    """
    given: dict[str, Any] = {} if device_map is None else {"device_map": device_map}
    if dtype is not None:
        given["dtype"] = check_dtype(str(dtype).removeprefix("torch."), "dtype")
    return load_lvlm(path, replace(Loading.from_environment(), **given))


def caption(
    lvlm: Lvlm,
    images: str | Path | Image | Sequence[str | Path | Image],
    method: str | Sequence[Intervention] | Method = "greedy",
    prompt: str = DESCRIBE,
    max_new_tokens: int = 128,
    batch_size: int = 8,
) -> list[str]:
    """Caption images, as the scripts do; `Lvlm.caption` is the same.

    Args:
        images: paths or PIL images, or one of them.
        method: such as "adhh:heads=FILE,top_k=2,threshold=0.95" or "vcd_paper" (`llava_hh.decoding.grammar`), or
            interventions under greedy decoding.
        batch_size: images at once; fewer where memory has no room for them.

    Returns: a text for each image, in order.
    Raises:
        ValueError: an image that cannot be read, no such method, or a number that is not above 0.
    """
    from llava_hh.decoding.generation import answer_within_memory

    for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} is {value!r}; expected a whole number of at least 1")
    images = [images] if isinstance(images, str | Path | Image) else images
    samples = [{"image_id": number, "image": image} for number, image in enumerate(images)]
    chosen, texts = _method(lvlm, method), []
    for first in range(0, len(samples), batch_size):
        block = samples[first : first + batch_size]
        prompts = [prompt] * len(block)
        answers, *_ = answer_within_memory(
            lvlm, block, lambda sample: rgb_image(sample["image"]), chosen, prompts, max_new_tokens
        )
        texts += [lvlm.answer_text(answer.token_ids) for answer in answers]
    return texts


def _method(lvlm: Lvlm, method: str | Sequence[Intervention] | Method) -> Method:
    from llava_hh.decoding.making import Material, make
    from llava_hh.decoding.method import Greedy
    from llava_hh.decoding.reading import read_methods
    from llava_hh.decoding.registry import GROUPS

    if not isinstance(method, str | Sequence):
        if not hasattr(method, "answer"):
            raise ValueError(f"method is {method!r}; expected a text, interventions or a method")
        return method
    if not isinstance(method, str):
        return Greedy(tuple(method))
    (spec,) = read_methods([method])
    other = {**dict.fromkeys(GROUPS, "is several methods"), "tfhh": "is another checkpoint, which llava_hh.load loads"}
    if why := "has a limit" if "limit" in spec.fields else other.get(spec.kind):
        raise ValueError(f"method {method!r} {why}; expected one method for this model")
    return make(spec, Material(lvlm)).method


@contextmanager
def intervene(
    model: Lvlm | PreTrainedModel,
    batch: Batch | Tensor,
    interventions: Sequence[Intervention],
    response_start: Sequence[int] | Tensor | None = None,
    on_rows: Sequence[bool] | Tensor | None = None,
    gradients: bool | None = None,
) -> Iterator[Trace]:
    """Apply `interventions` to every forward pass of the model, and so to `generate`, while the block is open.

    With an `Lvlm` and a `Batch` of it, the spans are the batch's, and forwards run without gradients. With a
    transformers model and its image_mask, (batch, prompt position) bool, this is `llava_hh.attention.hooks.intervene`,
    which says what is legal and what is raised.

    Args:
        gradients: whether forwards keep them; None: they do with a transformers model alone.
    """
    from llava_hh.attention.hooks import intervene as open_block

    if isinstance(batch, Batch) and response_start is None:
        response_start = batch.response_start
    plain, mask, tracking = _taken_apart(model, batch, gradients)
    with tracking, open_block(plain, mask, interventions, response_start, on_rows) as trace:
        yield trace


@contextmanager
def record(
    model: Lvlm | PreTrainedModel,
    batch: Batch | Tensor,
    mass: Iterable[tuple[int, int]] | None = None,
    maps: Iterable[tuple[int, int]] | None = None,
    gradients: bool | None = None,
) -> Iterator[Trace]:
    """Record the attention of chosen heads in every forward pass while the block is open; it changes no output.

    Args:
        model, batch, gradients: as for `intervene`.
        mass: heads whose mass on the image and after it is kept, in `trace.mass[layer]`, a (batch, head, query, 2)
            tensor for each forward; maps: heads whose maps are kept, in `trace.maps[layer]`.

    Raises:
        IndexError: a head that the model does not have.
        ValueError: an image mask of another shape, or a model whose attention cannot be recorded.
        RuntimeError: on leaving, a layer of one of the heads that was never called.
        NotImplementedError: a forward whose sliding-window cache may have dropped keys.
    """
    from llava_hh.attention.hooks import record as open_block

    plain, mask, tracking = _taken_apart(model, batch, gradients)
    with tracking, open_block(plain, mask, mass, maps) as trace:
        yield trace


def _taken_apart(
    model: Lvlm | PreTrainedModel, batch: Batch | Tensor, gradients: bool | None
) -> tuple[PreTrainedModel, Tensor, AbstractContextManager]:
    """transformers' model, the image mask, and the context that keeps gradients or does not."""
    is_ours = isinstance(model, Lvlm)
    keeps = not is_ours if gradients is None else gradients
    image_mask = batch.image_mask if isinstance(batch, Batch) else batch
    return model.model if is_ours else model, image_mask, nullcontext() if keeps else torch.no_grad()
