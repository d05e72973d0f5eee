"""LLaVA-1.5, original or in the transformers layout (llava-hf/llava-1.5), asked as the paper asks it, and mini.

A checkpoint without a chat template, or with that of llava-hf's LLaVA-1.5, is LLaVA-1.5: it gets its training's prompt
(vicuna_v1) and square padding. Any other (mini) has its own chat template and image processor, which are used as they
are.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from llava_hh.models.chat import ChatFamily, encode_texts, refuse_image_token, render, split_answers
from llava_hh.models.checkpoint import load_checkpoint, stored_tensors
from llava_hh.models.image_grid import ImageGrid, central_square, padded_square, square_grid, whole

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


class Llava(ChatFamily):
    """One class for both kinds; `load` decides once which it is."""

    speaks_vicuna: bool
    stored_tensors = staticmethod(stored_tensors)

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
            never = {*(model.generation_config.suppress_tokens or ()), *unspoken_ids(processor, model)}
            model.generation_config.suppress_tokens = sorted(never)
        return model, processor

    def encode(
        self, processor: LlavaProcessor, images: Sequence[Image.Image | None], questions: Sequence[str]
    ) -> tuple[list[list[int]], dict[str, torch.Tensor]]:
        """As `ChatFamily.encode`; LLaVA-1.5's text is tokenised in two parts."""
        if not self.speaks_vicuna:
            return super().encode(processor, images, questions)
        refuse_image_token(processor, questions)
        return _encode_llava15(processor, images, questions)

    def answer_parts(
        self, processor: LlavaProcessor, turns: Sequence[tuple[str, str]], with_image: bool, ends: Sequence[int]
    ) -> list[tuple[list[int], bool]]:
        """As `ChatFamily.answer_parts`; LLaVA-1.5 ends an answer with the end-of-sequence token, without a blank."""
        if not self.speaks_vicuna:
            return super().answer_parts(processor, turns, with_image, ends)
        tokenizer = processor.tokenizer

        def closing(place: int) -> list[int]:
            if place == len(turns) - 1:
                return [tokenizer.eos_token_id]
            asked = f"USER: {turns[place + 1][0]} ASSISTANT:"
            return [tokenizer.eos_token_id, *tokenizer(asked, add_special_tokens=False).input_ids]

        return split_answers(tokenizer, turns, closing, ends)

    def image_grid(
        self, processor: LlavaProcessor, image: Image.Image, inputs: dict[str, torch.Tensor], n_tokens: int
    ) -> ImageGrid:
        """Rows of patches over the padded square (LLaVA-1.5), the central square, or the squashed picture (mini)."""
        if self.speaks_vicuna:
            return square_grid(n_tokens, padded_square(image.size))
        crops = processor.image_processor.do_center_crop
        return square_grid(n_tokens, central_square(image.size) if crops else whole())


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
) -> tuple[list[list[int]], dict[str, torch.Tensor]]:
    """Rows of ids, text before and after the image tokenised on their own as LLaVA does; and the images' pixels."""
    colour = tuple(int(255 * mean) for mean in processor.image_processor.image_mean)
    squares = [pad_to_square(image, colour) for image in images if image is not None]
    shown, tensors = [], {}
    if squares:
        shown, tensors = encode_texts(processor, squares, [processor.image_token] * len(squares), ["pixel_values"])
    # how many tokens an image takes is the processor's to say
    lengths = iter([ids.count(processor.image_token_id) for ids in shown])
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
    return rows, tensors
