"""Chameleon 7B and 30B: the image is discrete tokens in the sequence, asked without a chat template."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from transformers import ChameleonForConditionalGeneration, ChameleonProcessor

from llava_hh.models.chat import ChatFamily, encode_texts, load_image_processor, load_whole, split_answers
from llava_hh.models.image_grid import ImageGrid, central_square, square_grid


class Chameleon(ChatFamily):
    """A prompt is the image, the question and the separator token; a question may say itself where `<image>` stands.

    Source: the paper's scripts ask with the question before the image: "Please describe this image in detail.<image>".
    Differs: where the question doesn't say, the image comes first, so that the question is text after the image as in
        the other families.
    """

    model_class = ChameleonForConditionalGeneration
    processor_class = ChameleonProcessor

    def load(self, path: Path, **options: Any) -> tuple[ChameleonForConditionalGeneration, ChameleonProcessor]:
        """The model and its processor.

        Raises:
            ValueError: weights that are missing.
        """
        return load_whole(self.model_class, path, **options), load_image_processor(self.processor_class, path)

    def encode(
        self, processor: ChameleonProcessor, images: Sequence[Image.Image | None], questions: Sequence[str]
    ) -> tuple[list[list[int]], dict[str, Tensor]]:
        """As `ChatFamily.encode`.

        Raises:
            ValueError: a question with `<image>` more than once, or without an image.
        """
        token, texts = processor.image_token, []
        for image, question in zip(images, questions, strict=True):
            if question.count(token) > (image is not None):
                raise ValueError(
                    f"the prompt {question!r} holds {token} {question.count(token)} times; "
                    f"this row has {'one image' if image is not None else 'no image'}"
                )
            texts.append(question if image is None or token in question else token + question)
        return encode_texts(processor, images, texts, self.image_tensors)

    def answer_parts(
        self,
        processor: ChameleonProcessor,
        turns: Sequence[tuple[str, str]],
        with_image: bool,
        ends: Sequence[int],
    ) -> list[tuple[list[int], bool]]:
        """As `ChatFamily.answer_parts`: the end-of-sequence token ends an answer, the separator a question."""
        tokenizer = processor.tokenizer

        def closing(place: int) -> list[int]:
            if place == len(turns) - 1:
                return [tokenizer.eos_token_id]
            asked = turns[place + 1][0] + tokenizer.sep_token
            return [tokenizer.eos_token_id, *tokenizer(asked, add_special_tokens=False).input_ids]

        return split_answers(tokenizer, turns, closing, ends)

    def image_grid(
        self, processor: ChameleonProcessor, image: Image.Image, inputs: dict[str, Tensor], n_tokens: int
    ) -> ImageGrid:
        """A token per cell of the central square."""
        return square_grid(n_tokens, central_square(image.size))
