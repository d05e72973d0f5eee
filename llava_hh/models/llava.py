"""LLaVA-1.5, original or in the transformers layout (llava-hf/llava-1.5), asked as the paper asks it, and mini.

A checkpoint without a chat template, or with that of llava-hf's LLaVA-1.5, is LLaVA-1.5: it gets its training's prompt
(vicuna_v1) and square padding. Any other (mini) has its own chat template and image processor, which are used as they
are.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from PIL import Image
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from llava_hh.models.checkpoint import load_checkpoint

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


class Llava:
    """One class for both kinds; `load` decides once which it is. Image positions by the image token id."""

    speaks_vicuna: bool

    def load(self, path: Path, **options: Any) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
        """The model and its processor, completed where the checkpoint's files are of llava-hf's early ones.

        Raises:
            OSError, ValueError: as `load_checkpoint`; or a chat template that cannot ask about an image.
        """
        model, processor = load_checkpoint(LlavaForConditionalGeneration, path, **options)
        if processor.chat_template is None:
            processor.chat_template = processor.tokenizer.chat_template
        complete_image_length(processor, model.config)
        self.speaks_vicuna = is_llava15(processor)
        if self.speaks_vicuna:
            model.generation_config.suppress_tokens = unspoken_ids(processor, model)
        return model, processor

    def encode(
        self, processor: LlavaProcessor, images: Sequence[Image.Image | None], questions: Sequence[str]
    ) -> tuple[list[list[int]], dict[str, torch.Tensor]]:
        """Token ids of each row, with the image's expanded, and the other inputs of the model.

        Raises:
            ValueError: a question that holds the image token itself.
        """
        for question in questions:
            if processor.image_token in question:
                raise ValueError(
                    f"the prompt {question!r} holds {processor.image_token}; the image is put there for you"
                )
        if self.speaks_vicuna:
            rows, encoded = _encode_llava15(processor, images, questions)
        else:
            texts = [
                render(processor, question, image is not None)
                for image, question in zip(images, questions, strict=True)
            ]
            encoded = processor(images=[image for image in images if image is not None] or None, text=texts)
            rows = [list(ids) for ids in encoded["input_ids"]]
        if "pixel_values" not in encoded:
            return rows, {}
        return rows, {"pixel_values": torch.stack([torch.as_tensor(image) for image in encoded["pixel_values"]])}

    def answer_parts(
        self, processor: LlavaProcessor, turns: Sequence[tuple[str, str]], with_image: bool, ends: Sequence[int]
    ) -> list[tuple[list[int], bool]]:
        """What follows the first question in a conversation: token ids, and whether they belong to an answer.

        An answer ends with the first of `ends` (its end token) that the format puts after it.

        Raises:
            ValueError: a chat template that does not repeat what was said, or ends no answer.
        """
        tokenizer = processor.tokenizer

        def ids_of(text: str) -> list[int]:
            return list(tokenizer(text, add_special_tokens=False).input_ids)

        parts: list[tuple[list[int], bool]] = []
        for place, (_, answer) in enumerate(turns):
            is_last = place == len(turns) - 1
            if self.speaks_vicuna:
                closing = [tokenizer.eos_token_id]
                if not is_last:
                    closing += ids_of(f"USER: {turns[place + 1][0]} ASSISTANT:")
            else:
                closing = ids_of(text_after_answer(processor, turns, place, with_image))
            end = next((i for i, token in enumerate(closing) if token in ends), None)
            if end is None:
                raise ValueError(f"the chat template of {tokenizer.name_or_path} puts no end token after an answer")
            parts.append((ids_of(answer) + closing[: end + 1], True))
            if not is_last:
                parts.append((closing[end + 1 :], False))
        return parts

    def decoder_layers(self, model: LlavaForConditionalGeneration) -> torch.nn.ModuleList:
        return model.model.language_model.layers

    def image_token_ids(self, model: LlavaForConditionalGeneration) -> list[int]:
        return [model.config.image_token_id]


def render(processor: LlavaProcessor, question: str, with_image: bool) -> str:
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


def text_after_answer(processor: LlavaProcessor, turns: Sequence[tuple[str, str]], place: int, with_image: bool) -> str:
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


def complete_image_length(processor: LlavaProcessor, config: LlavaConfig) -> None:
    """Take from the model what an image becomes, field by field, where the processor's files leave it out."""
    if processor.patch_size is None:
        processor.patch_size = config.vision_config.patch_size
    if processor.vision_feature_select_strategy is None:
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
    # left out, it is 0; CLIP always has a class token, which "default" drops again
    if not processor.num_additional_image_tokens and config.vision_config.model_type == "clip_vision_model":
        processor.num_additional_image_tokens = 1


def is_llava15(processor: LlavaProcessor) -> bool:
    """Whether a checkpoint is LLaVA-1.5: by what its chat template makes of a question, or for want of one.

    Raises:
        ValueError: a chat template that cannot ask about an image.
    """
    if processor.chat_template is None:
        return True
    return render(processor, "?", with_image=True).strip() == f"USER: {processor.image_token}\n? ASSISTANT:"


def unspoken_ids(processor: LlavaProcessor, model: LlavaForConditionalGeneration) -> list[int]:
    """Ids that LLaVA-1.5's own vocabulary lacks: image and padding tokens, and the rows that round the matrices up."""
    tokenizer = processor.tokenizer
    added = {processor.image_token_id, tokenizer.pad_token_id} - {tokenizer.unk_token_id, tokenizer.eos_token_id, None}
    return sorted(added | set(range(len(tokenizer), model.config.get_text_config().vocab_size)))


def vicuna_prompt(question: str, image_token: str | None) -> str:
    """The conversation that LLaVA-1.5 was tuned on, `vicuna_v1`, up to its answer.

    Source: LLaVA's conversation template, as in the paper's scripts.
    Differs: llava-hf's chat template has no system text.
    """
    shown = f"{image_token}\n" if image_token else ""
    return f"{VICUNA_SYSTEM} USER: {shown}{question} ASSISTANT:"


def pad_to_square(image: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    """The image in the middle of a square of its longer side.

    Source: LLaVA-1.5's `image_aspect_ratio="pad"`.
    Differs: transformers' processor crops the longer side instead.
    """
    side = max(image.size)
    if min(image.size) == side:
        return image
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _encode_llava15(
    processor: LlavaProcessor, images: Sequence[Image.Image | None], questions: Sequence[str]
) -> tuple[list[list[int]], dict]:
    """Rows of ids, text before and after the image tokenised on their own as LLaVA does; and the images' pixels."""
    colour = tuple(int(255 * mean) for mean in processor.image_processor.image_mean)
    squares = [pad_to_square(image, colour) for image in images if image is not None]
    encoded = processor(images=squares, text=[processor.image_token] * len(squares)) if squares else {}
    # how many tokens an image takes is the processor's to say
    lengths = iter([list(ids).count(processor.image_token_id) for ids in encoded.get("input_ids", ())])
    rows = []
    for image, question in zip(images, questions, strict=True):
        if image is None:
            rows.append(list(processor.tokenizer(vicuna_prompt(question, None)).input_ids))
            continue
        before, after = vicuna_prompt(question, processor.image_token).split(processor.image_token, 1)
        rows.append(
            [
                *processor.tokenizer(before).input_ids,
                *[processor.image_token_id] * next(lengths),
                *processor.tokenizer(after, add_special_tokens=False).input_ids,
            ]
        )
    return rows, encoded
