"""The one door to a vision-language model: load_lvlm, Lvlm, Batch."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from PIL.Image import Image
from PIL.Image import new as new_image
from torch import Tensor

from llava_hh.attention.modules import decoder_layers
from llava_hh.files.files import in_one_line
from llava_hh.files.images import rgb_image
from llava_hh.models.checkpoint import model_type_of
from llava_hh.models.families import FAMILIES
from llava_hh.models.image_grid import ImageGrid
from llava_hh.models.known_ids import refuse_unknown_ids
from llava_hh.models.literal import encode_apart, without_image_token
from llava_hh.models.loading import Loading
from llava_hh.models.questions import DESCRIBE as DESCRIBE
from llava_hh.models.token_ids import end_ids, generation_config, see_end_token
from llava_hh.models.weight_files import check_files, weight_files

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


class Family(Protocol):
    """What a family of models must say; nothing else in the package knows one.

    A family whose answers have to be cut may have `read_answer(text) -> str` as well.
    One whose forward needs something of every position has `complete(model, inputs) -> inputs` as well, which adds it
    to padded inputs: `input_ids` and `attention_mask` (row, position), answers among them, and the images' tensors.
    One that knows where in the picture an image's tokens look has
    `image_grid(processor, image, inputs, n_tokens) -> ImageGrid` as well.
    One whose weights may lie in other files than its folder's own has `stored_tensors(path) -> list[StoredTensor]`.
    One whose pixel_values are not an entry per image or tile, each (channel, height, width), has
    `image_pixels(processor, inputs) -> (pixels, lengths)` as well: a view of them as (frame, entry, channel, height,
    width), frames of one entry being alike; and how many entries each image has.
    """

    def load(self, path: Path, **options: Any) -> tuple[PreTrainedModel, ProcessorMixin]: ...
    def encode(
        self, processor: ProcessorMixin, images: Sequence[Image | None], questions: Sequence[str]
    ) -> tuple[list[list[int]], dict[str, Tensor]]: ...
    def answer_parts(
        self, processor: ProcessorMixin, turns: Sequence[tuple[str, str]], with_image: bool, ends: Sequence[int]
    ) -> list[tuple[list[int], bool]]: ...
    def image_token_ids(self, model: PreTrainedModel) -> list[int]: ...


@dataclass(frozen=True)
class Batch:
    """Left-padded model inputs with the spans that interventions need.

    inputs: what model.forward takes; image_mask: (row, position) bool; response_start: per row, the position of the
    first answer token; sample_ids, images and prompts as they were given; n_images: how many of the images each row
    shows, which stand in the order of the rows.
    """

    inputs: dict[str, Tensor]
    image_mask: Tensor
    response_start: list[int]
    sample_ids: list
    images: list[Image | None]
    prompts: list[str]
    n_images: list[int]


class Lvlm:
    """A model with its processor and family, the folder that it is from and how it was loaded. `load_lvlm` makes it."""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, family: Family, path: Path, loading: Loading):
        self.model, self.processor, self.family = model, processor, family
        self.path, self.loading = path, loading
        text = model.config.get_text_config()
        self.n_layers: int = text.num_hidden_layers
        self.n_heads: int = text.num_attention_heads
        self.d_head: int = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads

    @property
    def decoder_layers(self) -> list[torch.nn.Module]:
        return decoder_layers(self.model)

    @property
    def tokenizer(self):
        return self.processor.tokenizer

    @property
    def end_token_ids(self) -> list[int]:
        return end_ids(self.model)

    def encode(
        self,
        images: Sequence[Image | str | Path | None],
        prompts: Sequence[str],
        responses: Sequence[Sequence[int]] | None = None,
        sample_ids: Sequence | None = None,
    ) -> Batch:
        """Make a left-padded batch of one question per row.

        Args:
            images: one per row, a path, a PIL image, or None for a row of text only.
            prompts: the questions; the family puts its conversation format around them.
            responses: token ids of answers to append (teacher forcing); they are never tokenised again.
        """
        images = [each if each is None or getattr(each, "mode", "") == "RGB" else rgb_image(each) for each in images]
        rows, tensors = self.family.encode(self.processor, images, prompts)
        starts = [len(ids) for ids in rows]
        if responses is not None:
            rows = [ids + list(answer) for ids, answer in zip(rows, responses, strict=True)]
        inputs = self._complete(self._pad(rows, tensors, "left"))
        width = inputs["input_ids"].shape[1]
        return Batch(
            inputs=inputs,
            image_mask=self._image_mask(inputs["input_ids"]),
            response_start=[width - len(ids) + start for ids, start in zip(rows, starts, strict=True)],
            sample_ids=list(sample_ids if sample_ids is not None else range(len(rows))),
            images=images,
            prompts=list(prompts),
            n_images=[int(image is not None) for image in images],
        )

    def caption(self, images: str | Path | Image | Sequence[str | Path | Image], **settings: Any) -> list[str]:
        """Caption images; `llava_hh.caption` says what `method`, `prompt`, `max_new_tokens` and `batch_size` are."""
        import llava_hh  # it stands on all layers

        return llava_hh.caption(self, images, **settings)

    def encode_conversations(
        self,
        images: Sequence[Image | None],
        conversations: Sequence[Sequence[tuple[str, str]]],
        max_length: int,
        sample_ids: Sequence | None = None,
    ) -> tuple[Batch, Tensor]:
        """Make a right-padded batch of whole conversations for training, and its labels.

        Args:
            conversations: (question, answer) pairs; the image belongs to the first question. Without an image, the
                image token in a text is text.
            max_length: what is longer is cut off at its end.
        Returns: the batch, on the CPU, and labels (row, position): the token itself where it belongs to an answer, its
            end token included, and -100 elsewhere. `response_start` is that of the first answer.
        Raises:
            ValueError: an image that max_length would cut, or a conversation that the family's format changes; names
                the sample.
        """
        readers = [self._reader_of(*row) for row in zip(images, conversations, strict=True)]
        rows, tensors = encode_apart(self.family.encode, readers, images, [turns[0][0] for turns in conversations])
        starts = [len(ids) for ids in rows]
        labels = [[-100] * len(ids) for ids in rows]
        names = list(sample_ids if sample_ids is not None else range(len(rows)))
        for name, row, label, turns, image, reader in zip(
            names, rows, labels, conversations, images, readers, strict=True
        ):
            try:
                parts = self.family.answer_parts(reader, turns, image is not None, self.end_token_ids)
            except ValueError as error:
                raise ValueError(f"sample {name}: {error}") from None
            for ids, is_answer in parts:
                row += ids
                label += ids if is_answer else [-100] * len(ids)
        whole = self._pad(rows, tensors, "right", "cpu")
        width = min(max_length, whole["input_ids"].shape[1])
        image_mask = self._image_mask(whole["input_ids"])
        if image_mask[:, width:].any():
            raise ValueError(f"max_length {max_length} cuts an image off; the longest prompt has {max(starts)} tokens")
        cut = {name: whole[name][:, :width] for name in ("input_ids", "attention_mask")}
        inputs = self._complete(whole | cut)
        labels = torch.tensor([label + [-100] * (whole["input_ids"].shape[1] - len(label)) for label in labels])
        asked = [turns[0][0] for turns in conversations]
        shown = [int(image is not None) for image in images]
        batch = Batch(inputs, image_mask[:, :width], starts, names, list(images), asked, shown)
        return batch, labels[:, :width]

    def _reader_of(self, image: Image | None, turns: Sequence[tuple[str, str]]) -> ProcessorMixin:
        token = getattr(self.processor, "image_token", None)
        is_text = image is None and token and any(token in text for turn in turns for text in turn)
        return self._text_reader if is_text else self.processor

    @cached_property
    def _text_reader(self) -> ProcessorMixin:
        return without_image_token(self.processor)

    def image_grid(self, batch: Batch) -> ImageGrid | None:
        """How the image tokens of a batch of one row lie over its picture; None where the family can't say."""
        find = getattr(self.family, "image_grid", None)
        if find is None or batch.images[0] is None:
            return None
        return find(self.processor, batch.images[0], batch.inputs, int(batch.image_mask.sum()))

    def answer_text(self, token_ids: Sequence[int]) -> str:
        """What generated tokens say, as far as the family's `read_answer` keeps it, without outer blanks."""
        text = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        read = getattr(self.family, "read_answer", None)
        return (read(text) if read else text).strip()

    def _pad(
        self, rows: list[list[int]], tensors: dict[str, Tensor], side: str, device: torch.device | str | None = None
    ) -> dict[str, Tensor]:
        padded = self.tokenizer.pad({"input_ids": rows}, padding_side=side, return_tensors="pt")
        refuse_unknown_ids(self.model, self.tokenizer, padded["input_ids"], self.family.image_token_ids(self.model))
        device = self.model.device if device is None else device
        inputs = {"input_ids": padded["input_ids"].to(device), "attention_mask": padded["attention_mask"].to(device)}
        for name, tensor in tensors.items():
            inputs[name] = tensor.to(device, self.model.dtype if tensor.is_floating_point() else None)
        return inputs

    def _complete(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        complete = getattr(self.family, "complete", None)
        return complete(self.model, inputs) if complete else inputs

    def _image_mask(self, input_ids: Tensor) -> Tensor:
        return torch.isin(input_ids, torch.tensor(self.family.image_token_ids(self.model), device=input_ids.device))


def load_lvlm(path: str | Path, loading: Loading | None = None) -> Lvlm:
    """Load a checkpoint folder, in the transformers layout or LLaVA's own.

    Args:
        loading: None goes by the environment.
    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: a family that we don't know, weights that are missing, left over or damaged, or a package that
            quantization needs.
    """
    path = Path(path)
    model_type = model_type_of(path)
    if model_type not in FAMILIES:
        raise ValueError(f"{path}: model type {model_type!r} is not supported; supported: {', '.join(FAMILIES)}")
    family = FAMILIES[model_type]()
    loading = Loading.from_environment() if loading is None else loading
    check_files(path)
    if not sys.stderr.isatty():
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
    try:
        model, processor = family.load(path, generation_config=generation_config(path), **loading.options())
        lvlm = Lvlm(model.eval(), processor, family, path, loading)
        _try_out(lvlm)
    except Exception as error:  # whatever transformers says of a file that is not as it expects
        if isinstance(error, OSError | ValueError) and str(path.parent) in str(error):  # parts may lie beside it
            raise
        for file in weight_files(path):
            file.tensors()  # a damaged one says its name
        what = "" if isinstance(error, ImportError) else f"this checkpoint cannot be used; {type(error).__name__}: "
        raise ValueError(f"{path}: {what}{in_one_line(error)}") from error
    return lvlm


def _try_out(lvlm: Lvlm) -> None:
    """Prepare two images and questions, so that a damaged processor shows before the work.

    The questions differ in length, so that the padding token is among their ids.
    """
    for name in ("patch_size", "num_additional_image_tokens"):  # a huge one would write that many image tokens
        value = getattr(lvlm.processor, name, None)
        if value is not None and (type(value) is not int or not 0 <= value < 1000):
            raise ValueError(f"the processor's {name} is {value!r}; expected a number below 1000")
    config = lvlm.model.generation_config
    see_end_token(config, lvlm.tokenizer)
    if config.pad_token_id is not None:  # stands behind a short answer
        refuse_unknown_ids(lvlm.model, lvlm.tokenizer, torch.tensor(config.pad_token_id), ())
    grey = new_image("RGB", (64, 64), "grey")
    lvlm.encode([grey, grey], ["What is this?", "Is it grey, or is it of another colour?"])


def refuse_unloadable(path: Path) -> None:
    """See that a checkpoint can be loaded, that names and shapes of its weights fit; none of them is read.

    Raises:
        FileNotFoundError, ValueError: as `load_lvlm`.
    """
    release(load_lvlm(path, replace(Loading.from_environment(), device_map="meta", bits=None)))


def release(lvlm: Lvlm) -> None:
    """Free a model's memory, before the next one is loaded; it answers nothing any more."""
    lvlm.model = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
