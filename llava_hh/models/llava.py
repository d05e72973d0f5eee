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

from llava_hh.models import chat
from llava_hh.models.checkpoint import load_checkpoint
from llava_hh.models.image_grid import WHOLE, ImageGrid, central_square, padded_square, square_grid

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


class Llava(chat.ChatFamily):
    """One class for both kinds; `load` decides once which it is."""

    speaks_vicuna: bool

    def load(self, path: Path, **options: Any) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
        """The model and its processor, completed where the checkpoint's files are of llava-hf's early ones.

        Raises:
            FileNotFoundError: a part that is not there.
            ValueError: weights that do not fit, or a chat template that cannot ask about an image.
        """
        model, processor = load_checkpoint(LlavaForConditionalGeneration, path, **options)
        if processor.chat_template is None:
            processor.chat_template = processor.tokenizer.chat_template
        complete_image_length(processor, model.config)
        self.speaks_vicuna = is_llava15(processor)
        if self.speaks_vicuna:
            suppress_unspoken(processor, model)
        return model, processor

    def encode(self, processor: LlavaProcessor, images: chat.Images, questions: Sequence[str]) -> chat.Encoded:
        """Token ids of each row, with the image's expanded, and the images' pixels.

        LLaVA-1.5 tokenises text before and after the image on its own.

        Raises:
            ValueError: a question that holds the image token itself.
        """
        if not self.speaks_vicuna:
            return super().encode(processor, images, questions)
        token = processor.image_token
        chat.refuse_image_token(token, questions)
        squares = [self.square(processor, image) for image in images if image is not None]
        image_ids, tensors = [], {}
        if squares:  # how many tokens an image takes is the processor's to say; of squares it is one number
            shown, tensors = chat.encode_texts(processor, squares, [token] * len(squares), ["pixel_values"])
            image_ids = [processor.image_token_id] * shown[0].count(processor.image_token_id)
        texts = [
            self.prompt(text, None if image is None else token) for image, text in zip(images, questions, strict=True)
        ]
        return chat.encode_around_image(processor, texts, token, image_ids, begin=None), tensors

    def takes_system(self, processor: LlavaProcessor) -> bool:
        """Whether the format has a place for a system text, as vicuna_v1 has."""
        return self.speaks_vicuna or super().takes_system(processor)

    def prompt(self, question: str, image_token: str | None) -> str:
        """What LLaVA-1.5 is asked."""
        return vicuna_prompt(question, image_token)

    def square(self, processor: LlavaProcessor, image: Image.Image) -> Image.Image:
        """LLaVA-1.5's image, padded to a square with the mean colour."""
        return pad_to_square(image, tuple(int(255 * mean) for mean in processor.image_processor.image_mean))

    def answer_parts(
        self, processor: LlavaProcessor, turns: chat.Turns, with_image: bool, ends: Sequence[int]
    ) -> chat.AnswerParts:
        """The parts behind the first question; LLaVA-1.5 ends an answer with the end-of-sequence token alone."""
        if not self.speaks_vicuna:
            return super().answer_parts(processor, turns, with_image, ends)
        return chat.answers_of_a_format(processor, turns, "USER: ", " ASSISTANT:", chat.end_token(processor, ends))

    def image_grid(
        self, processor: LlavaProcessor, image: Image.Image, inputs: dict[str, torch.Tensor], n_tokens: int
    ) -> ImageGrid:
        """Rows of patches over the padded square (LLaVA-1.5), the central square, or the squashed picture (mini)."""
        if self.speaks_vicuna:
            return square_grid(n_tokens, padded_square(image.size))
        return square_grid(n_tokens, central_square(image.size) if processor.image_processor.do_center_crop else WHOLE)


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
    return chat.render(processor, "?", with_image=True).strip() == f"USER: {processor.image_token}\n? ASSISTANT:"


def suppress_unspoken(processor: LlavaProcessor, model: LlavaForConditionalGeneration) -> None:
    """Let the model say no id that LLaVA's vocabulary lacks: image and padding tokens, rows that round it up."""
    tokenizer, config = processor.tokenizer, model.generation_config
    added = {processor.image_token_id, tokenizer.pad_token_id} - {tokenizer.unk_token_id, tokenizer.eos_token_id, None}
    rounded = range(len(tokenizer), model.config.get_text_config().vocab_size)
    config.suppress_tokens = sorted({*(config.suppress_tokens or ()), *added, *rounded})


def vicuna_prompt(question: str, image_token: str | None) -> str:
    """The conversation that LLaVA-1.5 was tuned on, `vicuna_v1`, up to its answer.

    Source: LLaVA's conversation template, as in the paper's scripts.
    Differs: llava-hf's chat template has no system text.
    """
    shown = f"{image_token}\n" if image_token else ""
    system = question.system if isinstance(question, chat.Asked) else VICUNA_SYSTEM
    return f"{system} USER: {shown}{question} ASSISTANT:"


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
