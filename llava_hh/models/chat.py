"""What families share: loading, encoding by the checkpoint's chat template, the parts of a conversation.

A family names its model and processor classes and the tensors that its processor makes of images, and overrides what is
different with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from jinja2 import TemplateError
from PIL import Image
from torch import Tensor

from llava_hh.files.memory import is_out_of_memory
from llava_hh.files.patience import within
from llava_hh.models.weight_files import UNREADABLE, refuse_wrong_weights, tensors_of, weight_files
from llava_hh.models.without_code import from_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

Images = Sequence[Image.Image | None]  # None: a row of text alone
Turns = Sequence[tuple[str, str]]  # questions and their answers
Encoded = tuple[list[list[int]], dict[str, Tensor]]  # token ids of each row, and the images' tensors by name
AnswerParts = list[tuple[list[int], bool]]  # token ids, and whether they belong to an answer
TEMPLATE_SECONDS = 20.0  # for a text that takes milliseconds


class Asked(str):
    """A question under a system text of its own, which stands where `ChatFamily.takes_system` says there is a place."""

    system: str

    def __new__(cls, question: str, system: str) -> Asked:
        asked = super().__new__(cls, question)
        asked.system = system
        return asked


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

    def encode(self, processor: ProcessorMixin, images: Images, questions: Sequence[str]) -> Encoded:
        """Token ids of each row, with the image's expanded, and what the processor makes of the images.

        Raises:
            ValueError: a question that holds the image token itself.
        """
        refuse_image_token(processor.image_token, questions)
        texts = [render(processor, text, image is not None) for image, text in zip(images, questions, strict=True)]
        return encode_texts(processor, images, texts, self.image_tensors, self.lists_images)

    def takes_system(self, processor: ProcessorMixin) -> bool:
        """Whether the checkpoint's chat template has a place for a system text, unlike an answer's."""
        texts, mark = [], "system text"
        for role in ("system", "assistant"):
            messages = [message(role, mark), message("user", "?", with_image=True)]
            try:
                texts.append(templated(processor, messages, add_generation_prompt=True))
            except ValueError:  # it refuses the role
                texts.append("")
        return mark in texts[0] and texts[0] != texts[1]

    def answer_parts(
        self, processor: ProcessorMixin, turns: Turns, with_image: bool, ends: Sequence[int]
    ) -> AnswerParts:
        """What follows the first question in a conversation: token ids, and whether they belong to an answer.

        An answer ends with the first of `ends` (its end token) that the checkpoint's template puts after it. Blanks
        around an answer go where the template trims answers, as Gemma's does.

        Raises:
            ValueError: a chat template that does not repeat what was said, or ends no answer.
        """
        parts: AnswerParts = []
        messages: list[dict] = []
        for question, answer in turns:
            messages.append(message("user", question, with_image and not messages))
            messages.append(message("assistant", said_answer(processor, answer)))
        for index in range(1, len(messages), 2):
            answer, after = messages[index]["content"][0]["text"], text_after(processor, messages, index)
            closing = ids_of(processor, after)
            end = next((position for position, token in enumerate(closing, 1) if token in ends), None)
            if end is None:
                template = f"the chat template of {processor.tokenizer.name_or_path}"
                raise ValueError(f"{template} puts no end token after an answer")
            parts.append((ids_of(processor, answer) + closing[:end], True))
            parts.append((closing[end:], False))
        return parts[:-1]

    def image_token_ids(self, model: PreTrainedModel) -> list[int]:
        return [model.config.image_token_id]


def load_whole(model_class: type[PreTrainedModel], path: Path, **options: Any) -> PreTrainedModel:
    """The model with all of its weights.

    Raises:
        ValueError: weights that are missing or of another shape, of which transformers only warns, or a damaged file.
    """
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        model, loaded = from_folder(model_class, path, **options)
    except UNREADABLE as error:
        if not is_out_of_memory(error):
            tensors_of(weight_files(path))  # raises ValueError for a damaged file, with its name
        raise
    wrong = loaded["mismatched_keys"]
    shapes = [f"{name} ({tuple(stored)}, the model needs {tuple(needed)})" for name, stored, needed in wrong]
    if (missing := loaded["missing_keys"]) or shapes:
        left_over = loaded["unexpected_keys"]  # harmless alone: parts that transformers' model does without
        refuse_wrong_weights(path, {"missing": missing, "left over": left_over, "of another shape": shapes})
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
    processor: ProcessorMixin, images: Images, texts: Sequence[str], names: Sequence[str], lists_images: bool = False
) -> Encoded:
    """Rows of token ids and the images' tensors of these names, by the checkpoint's processor.

    The tokenizer adds special tokens unless all texts begin with the beginning-of-sequence token already.

    Args:
        names: of the tensors that the processor makes of images.
        lists_images: whether the processor wants a list of images for each row.
    """
    shown: list = [image for image in images if image is not None]
    names, begin = names if shown else (), processor.tokenizer.bos_token
    if lists_images:
        shown = [[image] if image is not None else [] for image in images]
    lacks_begin = begin is None or not all(text.startswith(begin) for text in texts)
    encoded = processor(
        images=shown if names else None,
        text=list(texts),
        text_kwargs={"return_tensors": None, "add_special_tokens": lacks_begin},
        images_kwargs={"return_tensors": "pt"},
    )
    return [list(ids) for ids in encoded["input_ids"]], {name: encoded[name] for name in names}


def encode_around_image(
    processor: ProcessorMixin, texts: Iterable[str], image_token: str, image_ids: list[int], begin: list[int] | None
) -> list[list[int]]:
    """Rows of token ids in which text before and after the image is tokenised on its own.

    Args:
        image_ids: what stands for the image token of a text, if it has one.
        begin: the ids at the beginning of a row; None leaves them to the tokenizer.
    """
    rows = []
    for text in texts:
        before, token, after = text.partition(image_token)
        row = [*(begin or []), *processor.tokenizer(before, add_special_tokens=begin is None).input_ids]
        rows.append(row + image_ids + ids_of(processor, after) if token else row)
    return rows


def ids_of(processor: ProcessorMixin, text: str) -> list[int]:
    """The token ids of a text, without special tokens around it."""
    return list(processor.tokenizer(text, add_special_tokens=False).input_ids)


def refuse_image_token(image_token: str, questions: Sequence[str]) -> None:
    """Check that the image token is left to the format.

    Raises:
        ValueError: a question that holds it.
    """
    for question in questions:
        if image_token in question:
            raise ValueError(f"the prompt {question!r} holds {image_token}; the image is put there for you")


def message(role: str, text: str, with_image: bool = False) -> dict[str, Any]:
    """One turn of a conversation, as chat templates take it."""
    return {"role": role, "content": [*[{"type": "image"}] * with_image, {"type": "text", "text": text}]}


def render(processor: ProcessorMixin, question: str, with_image: bool) -> str:
    """The text of a one-turn conversation by the checkpoint's own chat template, under the system text of `Asked`.

    Raises:
        ValueError: a template that fails, or that does not show the image once.
    """
    system = [message("system", question.system)] if isinstance(question, Asked) else []
    text = templated(processor, [*system, message("user", question, with_image)], add_generation_prompt=True)
    shown = text.count(processor.image_token)
    if shown != with_image:
        what = f"writes {processor.image_token} {shown} times; expected {int(with_image)}"
        raise ValueError(f"the chat template of {processor.tokenizer.name_or_path} {what}")
    return text


def templated(processor: ProcessorMixin, messages: Sequence[dict], **options: Any) -> str:
    """The text of a conversation by the checkpoint's own chat template; `options` are those of apply_chat_template.

    Raises:
        ValueError: a template that fails, or comes to no end in TEMPLATE_SECONDS.
    """
    template = f"the chat template of {processor.tokenizer.name_or_path}"
    parts = [part for each in messages for part in each["content"]]
    with_image = " with an image" if any(part["type"] == "image" for part in parts) else ""
    with within(TEMPLATE_SECONDS, template):
        try:
            return processor.apply_chat_template(list(messages), **options)
        except (TemplateError, TypeError) as error:  # written for text alone, it adds a string to the list of parts
            raise ValueError(f"{template} fails on a question{with_image}: {error}") from None


def said_answer(processor: ProcessorMixin, answer: str) -> str:
    """An answer as the checkpoint's chat template repeats it: trimmed, if the template does so."""
    if answer == answer.strip():
        return answer
    messages = [message("user", "?"), message("assistant", answer)]
    before = templated(processor, messages[:1], add_generation_prompt=True)
    return answer if templated(processor, messages).startswith(before + answer) else answer.strip()


def text_after(processor: ProcessorMixin, messages: Sequence[dict], index: int) -> str:
    """What the checkpoint's chat template writes between the answer `messages[index]` and the next one, or behind it.

    Raises:
        ValueError: the template does not repeat the conversation word for word.
    """
    said = templated(processor, messages[:index], add_generation_prompt=True)
    said += messages[index]["content"][0]["text"]
    until_next = messages[: index + 2]
    whole = templated(processor, until_next, add_generation_prompt=len(until_next) == index + 2)
    if not whole.startswith(said):
        raise ValueError(f"the chat template of {processor.tokenizer.name_or_path} changes what was answered")
    return whole[len(said) :]


def end_token(processor: ProcessorMixin, ends: Sequence[int]) -> int:
    """The tokenizer's end-of-sequence token.

    Raises:
        ValueError: it is not among `ends`, the tokens that end a generated answer.
    """
    if (end := processor.tokenizer.eos_token_id) not in ends:
        raise ValueError(f"the tokenizer's end token {end} ends no generated answer; expected one of {list(ends)}")
    return end


def answers_of_a_format(processor: ProcessorMixin, turns: Turns, opening: str, closing: str, end: int) -> AnswerParts:
    """What follows the first question in a conversation of a fixed format, as `ChatFamily.answer_parts` returns it.

    Args:
        opening, closing: what stands before and after a question.
        end: the token after each answer.
    """
    parts: AnswerParts = []
    for index, (question, answer) in enumerate(turns):
        if index:
            parts.append((ids_of(processor, opening + question + closing), False))
        parts.append(([*ids_of(processor, answer), end], True))
    return parts
