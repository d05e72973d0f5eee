"""The one door to a vision-language model: load_lvlm, Lvlm, Batch."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from PIL.Image import Image
from PIL.Image import new as new_image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llava_hh.attention.modules import decoder_layers, input_device
from llava_hh.files.files import in_one_line
from llava_hh.files.images import rgb_image
from llava_hh.models.chat import AnswerParts, Encoded, Images, Turns
from llava_hh.models.checkpoint import model_type_of
from llava_hh.models.families import FAMILIES
from llava_hh.models.hub import local_folder
from llava_hh.models.image_grid import ImageGrid
from llava_hh.models.literal import encode_apart, without_image_token
from llava_hh.models.loading import Loading
from llava_hh.models.questions import DESCRIBE as DESCRIBE
from llava_hh.models.token_ids import complete_end_token, end_ids, generation_config, refuse_unknown_ids
from llava_hh.models.weight_files import check_files

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


class Family(Protocol):
    """What a family of models must say; nothing else in the package knows one.

    A family whose answers have to be cut may have `read_answer(text) -> str` as well.
    One whose forward needs something of every position has `complete(model, inputs) -> inputs` as well, which adds it
    to padded inputs: `input_ids` and `attention_mask` (row, position), answers among them, and the images' tensors.
    One that knows where in the picture an image's tokens look has
    `image_grid(processor, image, inputs, n_tokens) -> ImageGrid` as well.
    One whose format may have a place for a system text has `takes_system(processor) -> bool` as well; a question is
    then a `chat.Asked` where it has one.
    One whose weights may lie in other files than its folder's own has `stored_tensors(path) -> list[StoredTensor]`.
    One whose pixel_values are not an entry per image or tile, each (channel, height, width), has
    `image_pixels(processor, inputs) -> (pixels, lengths)` as well: a view of them as (frame, entry, channel, height,
    width), frames of one entry being alike; and how many entries each image has.
    """

    def load(self, path: Path, **options: Any) -> tuple[PreTrainedModel, ProcessorMixin]: ...
    def encode(self, processor: ProcessorMixin, images: Images, questions: Sequence[str]) -> Encoded: ...
    def answer_parts(
        self, processor: ProcessorMixin, turns: Turns, with_image: bool, ends: Sequence[int]
    ) -> AnswerParts: ...
    def image_token_ids(self, model: PreTrainedModel) -> list[int]: ...


FIXED_TOWERS = ("clip_vision_model", "siglip_vision_model")  # which take no other size than their own


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
        is_ready = [image is None or getattr(image, "mode", "") == "RGB" for image in images]
        images = [image if ready else rgb_image(image) for image, ready in zip(images, is_ready, strict=True)]
        rows, tensors = self.family.encode(self.processor, images, prompts)
        answers = [()] * len(rows) if responses is None else responses
        rows = [[*ids, *answer] for ids, answer in zip(rows, answers, strict=True)]
        inputs, image_mask = self._pad(rows, tensors, "left", input_device(self.model))
        starts = [image_mask.shape[1] - len(answer) for answer in answers]
        return self._batch(inputs, image_mask, starts, sample_ids, images, prompts)

    def caption(self, images: str | Path | Image | Sequence[str | Path | Image], **settings: Any) -> list[str]:
        """Caption images; `llava_hh.caption` says what `method`, `prompt`, `max_new_tokens` and `batch_size` are."""
        import llava_hh  # it stands on all layers

        return llava_hh.caption(self, images, **settings)

    def encode_conversations(
        self,
        images: Images,
        conversations: Sequence[Turns],
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
        questions = [turns[0][0] for turns in conversations]
        readers = [self._reader_of(*row) for row in zip(images, conversations, strict=True)]
        rows, tensors = encode_apart(self.family.encode, readers, images, questions)
        starts = [len(ids) for ids in rows]
        labels = [[-100] * start for start in starts]
        for index, (row, label, turns) in enumerate(zip(rows, labels, conversations, strict=True)):
            try:
                parts = self.family.answer_parts(readers[index], turns, images[index] is not None, self.end_token_ids)
            except ValueError as error:
                raise ValueError(f"sample {index if sample_ids is None else sample_ids[index]}: {error}") from None
            for ids, is_answer in parts:
                row += ids
                label += ids if is_answer else [-100] * len(ids)
        inputs, image_mask = self._pad(rows, tensors, "right", "cpu")
        if image_mask[:, max_length:].any():
            raise ValueError(f"max_length {max_length} cuts an image off; the longest prompt has {max(starts)} tokens")
        inputs |= {name: inputs[name][:, :max_length] for name in ("input_ids", "attention_mask")}
        batch = self._batch(inputs, image_mask[:, :max_length], starts, sample_ids, images, questions)
        padded = pad_sequence([torch.tensor(label) for label in labels], batch_first=True, padding_value=-100)
        return batch, padded[:, :max_length]

    def _reader_of(self, image: Image | None, turns: Turns) -> ProcessorMixin:
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
        self, rows: list[list[int]], tensors: dict[str, Tensor], side: str, device: torch.device | str
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The inputs of padded rows on a device, and which positions are an image's, (row, position) bool."""
        padded = self.tokenizer.pad({"input_ids": rows}, padding_side=side, return_tensors="pt")
        image_ids = self.family.image_token_ids(self.model)
        refuse_unknown_ids(self.model, self.tokenizer, padded["input_ids"], image_ids)
        self._refuse_other_sides(tensors)
        inputs = {name: padded[name].to(device) for name in ("input_ids", "attention_mask")}
        for name, tensor in tensors.items():
            inputs[name] = tensor.to(device, self.model.dtype if tensor.is_floating_point() else None)
        return inputs, torch.isin(inputs["input_ids"], torch.tensor(image_ids, device=device))

    def _refuse_other_sides(self, tensors: dict[str, Tensor]) -> None:
        """Check that a vision tower of fixed positions gets images of its size.

        Raises:
            ValueError: the checkpoint's processor makes others.
        """
        vision = getattr(self.model.config, "vision_config", None)
        if getattr(vision, "model_type", "") not in FIXED_TOWERS or "pixel_values" not in tensors:
            return
        height, width = tensors["pixel_values"].shape[-2:]
        if (height, width) != (side := vision.image_size, side):
            what = f"its processor makes images of {width} x {height} pixels, its vision tower takes {side} x {side}"
            raise ValueError(f"{self.path}: {what}; see processor_config.json or preprocessor_config.json")

    def _batch(
        self, inputs: dict, mask: Tensor, starts: list[int], ids: Sequence | None, images: Images, prompts: Sequence
    ) -> Batch:
        if complete := getattr(self.family, "complete", None):
            inputs = complete(self.model, inputs)
        ids = list(range(len(images)) if ids is None else ids)
        n_images = [int(image is not None) for image in images]
        return Batch(inputs, mask, starts, ids, list(images), list(prompts), n_images)


def load_lvlm(named: str | Path, loading: Loading | None = None) -> Lvlm:
    """Load a checkpoint, in the transformers layout or LLaVA's own.

    Args:
        named: a folder, or a text org/name[@revision] for a repository of the hub (`hub.local_folder`).
        loading: None goes by the environment.
    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: a family that is not known, weights that are missing, left over or damaged, or a package that
            quantization needs.
        OSError: a repository that cannot be fetched.
    """
    path = local_folder(named)
    model_type = model_type_of(path)
    if model_type not in FAMILIES:
        raise ValueError(f"{path}: model type {model_type!r} is not supported; supported: {', '.join(FAMILIES)}")
    family = FAMILIES[model_type]()
    loading = Loading.from_environment() if loading is None else loading
    check_files(path)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        model, processor = family.load(path, generation_config=generation_config(path), **loading.options())
        lvlm = Lvlm(model.eval(), processor, family, path, loading)
        _try_out(lvlm)
    except Exception as error:  # whatever transformers says of a file that is not as it expects
        if isinstance(error, OSError | ValueError) and str(path.parent) in str(error):  # parts may lie beside it
            raise
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
    complete_end_token(config, lvlm.tokenizer)
    if config.pad_token_id is not None:  # stands behind a short answer
        refuse_unknown_ids(lvlm.model, lvlm.tokenizer, torch.tensor(config.pad_token_id), ())
    grey = new_image("RGB", (64, 64), "grey")
    lvlm.encode([grey, grey], ["What is this?", "Is it grey, or is it of another colour?"])


def refuse_unloadable(path: Path) -> None:
    """Check that a checkpoint can be loaded, that names and shapes of its weights fit; none of them is read.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: a family that is not known, or weights or a processor that do not fit.
    """
    release(load_lvlm(path, replace(Loading.from_environment(), device_map="meta", bits=None)))


def release(lvlm: Lvlm) -> None:
    """Free a model's memory, before the next one is loaded; it answers nothing any more."""
    lvlm.model = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
