"""Chameleon 7B and 30B: the image is discrete tokens in the sequence, asked without a chat template."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from transformers import ChameleonForConditionalGeneration, ChameleonProcessor

from llava_hh.models import chat
from llava_hh.models.image_grid import ImageGrid, central_square, square_grid


class Chameleon(chat.ChatFamily):
    """A prompt is the image, the question and the separator token; a question may say itself where `<image>` stands.

    Source: the paper's scripts ask with the question before the image: "Please describe this image in detail.<image>".
    Differs: where the question doesn't say, the image comes first, so that the question is text after the image as in
        the other families.
    """

    model_class = ChameleonForConditionalGeneration
    processor_class = ChameleonProcessor

    def load(self, path: Path, **options: Any) -> tuple[ChameleonForConditionalGeneration, ChameleonProcessor]:
        """The model and its processor, which needs no chat template.

        Raises:
            ValueError: weights that are missing.
        """
        processor = chat.load_image_processor(self.processor_class, path)
        return chat.load_whole(self.model_class, path, **options), processor

    def encode(self, processor: ChameleonProcessor, images: chat.Images, questions: Sequence[str]) -> chat.Encoded:
        """Token ids of each row, with the image's expanded, and the images' pixels.

        Raises:
            ValueError: a question with `<image>` more than once, or without an image.
        """
        token, texts = processor.image_token, []
        for image, question in zip(images, questions, strict=True):
            if (shown := question.count(token)) > (image is not None):
                has = "one image" if image is not None else "no image"
                raise ValueError(f"the prompt {question!r} holds {token} {shown} times; this row has {has}")
            texts.append(question if image is None or shown else token + question)
        return chat.encode_texts(processor, images, texts, self.image_tensors)

    def answer_parts(
        self, processor: ChameleonProcessor, turns: chat.Turns, with_image: bool, ends: Sequence[int]
    ) -> chat.AnswerParts:
        """The parts behind the first question: the end-of-sequence token ends an answer, the separator a question."""
        end = chat.end_token(processor, ends)
        return chat.answers_of_a_format(processor, turns, "", processor.tokenizer.sep_token, end)

    def image_grid(
        self, processor: ChameleonProcessor, image: Image.Image, inputs: dict[str, Tensor], n_tokens: int
    ) -> ImageGrid:
        """A token per cell of the central square."""
        return square_grid(n_tokens, central_square(image.size))
