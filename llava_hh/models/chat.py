"""What families share that are asked through their checkpoint's own chat template: loading, encoding, answers.

A family names its model and processor classes and the tensors that its processor makes of images, and overrides what is
different with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from jinja2 import TemplateError
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from llava_hh.models.weight_files import first_line, refuse_wrong_weights
from llava_hh.models.without_code import from_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin


class ChatFamily:
    """A family in the transformers layout. Image positions by the image token id; video is left out."""

    model_class: ClassVar[type[PreTrainedModel]]
    processor_class: ClassVar[type[ProcessorMixin]]
    image_tensors: ClassVar[tuple[str, ...]] = ("pixel_values",)
    lists_images: ClassVar[bool] = False  # whether the processor wants a list of images for each row

    def load(self, path: Path, **options: Any) -> tuple[PreTrainedModel, ProcessorMixin]:
        """The model and its processor.

        Raises:
            ValueError: weights that are missing, or no chat template.
        """
        model = load_whole(self.model_class, path, **options)
        processor = load_image_processor(self.processor_class, path)
        if processor.chat_template is None:
            raise ValueError(f"{path}: no chat template there; expected chat_template.jinja or one of the tokenizer's")
        return model, processor

    def encode(
        self, processor: ProcessorMixin, images: Sequence[Image.Image | None], questions: Sequence[str]
    ) -> tuple[list[list[int]], dict[str, Tensor]]:
        """Token ids of each row, with the image's expanded, and what the processor makes of the images.

        Raises:
            ValueError: a question that holds the image token itself.
        """
        refuse_image_token(processor, questions)
        texts = [
            render(processor, question, image is not None) for image, question in zip(images, questions, strict=True)
        ]
        return encode_texts(processor, images, texts, self.image_tensors, self.lists_images)

    def answer_parts(
        self, processor: ProcessorMixin, turns: Sequence[tuple[str, str]], with_image: bool, ends: Sequence[int]
    ) -> list[tuple[list[int], bool]]:
        """What follows the first question in a conversation: token ids, and whether they belong to an answer.

        Blanks around an answer go where the checkpoint's template trims answers, as Gemma's does.

        Raises:
            ValueError: a chat template that does not repeat what was said, or ends no answer.
        """
        turns = [(question, said_answer(processor, answer)) for question, answer in turns]

        def closing(place: int) -> list[int]:
            text = text_after_answer(processor, turns, place, with_image)
            return list(processor.tokenizer(text, add_special_tokens=False).input_ids)

        return split_answers(processor.tokenizer, turns, closing, ends)

    def image_token_ids(self, model: PreTrainedModel) -> list[int]:
        return [model.config.image_token_id]


def load_whole(model_class: type[PreTrainedModel], path: Path, **options: Any) -> PreTrainedModel:
    """The model with all of its weights.

    Raises:
        ValueError: weights that are missing or of another shape, of which transformers only warns, or a damaged file.
    """
    try:
        model, report = from_folder(
            model_class, path, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except SafetensorError as error:
        raise ValueError(f"{path}: a weight file is damaged or cut off ({first_line(error)})") from None
    shapes = [
        f"{name} ({tuple(found)}, the model needs {tuple(needed)})" for name, found, needed in report["mismatched_keys"]
    ]
    if report["missing_keys"] or shapes:
        left_over = report["unexpected_keys"]  # harmless alone: parts that transformers' model does without
        wrong = {"missing": report["missing_keys"], "left over": left_over, "of another shape": shapes}
        refuse_wrong_weights(path, wrong)
    return model


def load_image_processor(processor_class: type[ProcessorMixin], path: Path) -> ProcessorMixin:
    """A checkpoint's processor without its part for videos, which needs torchvision; with the tokenizer's chat template
    where it has none of its own.
    """
    parts = [part for part in processor_class.get_attributes() if part != "video_processor"]
    images_only = type(processor_class.__name__, (processor_class,), {"get_attributes": classmethod(lambda _: parts)})
    processor = from_folder(images_only, path)
    if processor.chat_template is None:
        processor.chat_template = processor.tokenizer.chat_template
    return processor


def encode_texts(
    processor: ProcessorMixin,
    images: Sequence[Image.Image | None],
    texts: Sequence[str],
    image_tensors: Sequence[str],
    lists_images: bool = False,
) -> tuple[list[list[int]], dict[str, Tensor]]:
    """Rows of token ids and the images' tensors of these names, by the checkpoint's processor.

    Args:
        lists_images: as `ChatFamily.lists_images`.
    """
    shown = any(image is not None for image in images)
    given = [image for image in images if image is not None]
    if lists_images:
        given = [[image] if image is not None else [] for image in images]
    encoded = processor(
        images=given if shown else None,
        text=list(texts),
        text_kwargs={"return_tensors": None, "add_special_tokens": not begins_sequence(processor, texts)},
        images_kwargs={"return_tensors": "pt"},
    )
    rows = [list(ids) for ids in encoded["input_ids"]]
    return rows, {name: encoded[name] for name in image_tensors} if shown else {}


def begins_sequence(processor: ProcessorMixin, texts: Sequence[str]) -> bool:
    """Whether texts of one format begin with the beginning-of-sequence token, so that they need no other."""
    begin = processor.tokenizer.bos_token
    return begin is not None and all(text.startswith(begin) for text in texts)


def refuse_image_token(processor: ProcessorMixin, questions: Sequence[str]) -> None:
    """See that the image token is left to the format.

    Raises:
        ValueError: a question that holds it.
    """
    for question in questions:
        if processor.image_token in question:
            raise ValueError(f"the prompt {question!r} holds {processor.image_token}; the image is put there for you")


def render(processor: ProcessorMixin, question: str, with_image: bool) -> str:
    """The text of a one-turn conversation by the checkpoint's own chat template.

    Raises:
        ValueError: a template that fails, or that does not show the image once.
    """
    content = [{"type": "image"}] * with_image + [{"type": "text", "text": question}]
    template = f"the chat template of {processor.tokenizer.name_or_path}"
    try:
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    except (TemplateError, TypeError) as error:  # written for text alone, it adds a string to the list of parts
        raise ValueError(f"{template} fails on a question{' with an image' * with_image}: {error}") from None
    shown = text.count(processor.image_token)
    if shown != with_image:
        raise ValueError(f"{template} writes {processor.image_token} {shown} times; expected {int(with_image)}")
    return text


def said_answer(processor: ProcessorMixin, answer: str) -> str:
    """An answer as the checkpoint's chat template repeats it: trimmed, if the template does so."""
    if answer == answer.strip():
        return answer
    asked, answered = ([{"type": "text", "text": text}] for text in ("?", answer))
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    before = processor.apply_chat_template(messages[:1], add_generation_prompt=True)
    return answer if processor.apply_chat_template(messages).startswith(before + answer) else answer.strip()


def text_after_answer(processor: ProcessorMixin, turns: Sequence[tuple[str, str]], place: int, with_image: bool) -> str:
    """What the checkpoint's chat template writes between answer `place` and the next one, or behind the last.

    Raises:
        ValueError: the template does not repeat the conversation word for word.
    """
    messages = []
    for number, (question, answer) in enumerate(turns[: place + 2]):
        content = [{"type": "image"}] * (with_image and number == 0) + [{"type": "text", "text": question}]
        messages.append({"role": "user", "content": content})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    answered = 2 * place + 2
    before = processor.apply_chat_template(messages[: answered - 1], add_generation_prompt=True)
    is_last = place == len(turns) - 1
    whole = processor.apply_chat_template(
        messages[:answered] if is_last else messages[: answered + 1], add_generation_prompt=not is_last
    )
    said = before + turns[place][1]
    if not whole.startswith(said):
        raise ValueError(f"the chat template of {processor.tokenizer.name_or_path} changes what was answered")
    return whole[len(said) :]


def split_answers(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[tuple[str, str]],
    closing: Callable[[int], list[int]],
    ends: Sequence[int],
) -> list[tuple[list[int], bool]]:
    """What follows the first question in a conversation: token ids, and whether they belong to an answer.

    An answer ends with the first of `ends` (its end token) that the format puts after it.

    Args:
        closing: the ids that stand between the answer of that number and the next one, or behind the last.
    Raises:
        ValueError: a format that ends no answer.
    """
    parts: list[tuple[list[int], bool]] = []
    for place, (_, answer) in enumerate(turns):
        after = closing(place)
        end = next((i for i, token in enumerate(after) if token in ends), None)
        if end is None:
            raise ValueError(f"the chat template of {tokenizer.name_or_path} puts no end token after an answer")
        parts.append(([*tokenizer(answer, add_special_tokens=False).input_ids, *after[: end + 1]], True))
        if place < len(turns) - 1:
            parts.append((after[end + 1 :], False))
    return parts
