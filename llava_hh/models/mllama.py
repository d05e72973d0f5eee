"""Llama-3.2-Vision (Mllama): the image is read by cross-attention layers, and is one token in the others."""

from collections.abc import Sequence

from torch import Tensor
from transformers import MllamaForConditionalGeneration, MllamaProcessor

from llava_hh.models.chat import ChatFamily, Encoded, Images


class Mllama(ChatFamily):
    """Image mass in the self-attention layers is that of the image token; in the cross-attention layers it is all."""

    model_class = MllamaForConditionalGeneration
    processor_class = MllamaProcessor
    image_tensors = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")
    lists_images = True

    def encode(self, processor: MllamaProcessor, images: Images, questions: Sequence[str]) -> Encoded:
        """Token ids and the images' tensors of rows that all have an image, or all have none.

        Raises:
            ValueError: both kinds in one batch, where transformers would show images of nothing.
        """
        if len({image is None for image in images}) > 1:
            raise ValueError("mllama cannot have rows with and without an image in one batch; encode them apart")
        return super().encode(processor, images, questions)

    def complete(self, model: MllamaForConditionalGeneration, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inputs with the tiles that each position sees in cross-attention: all, from the image token on."""
        if "pixel_values" not in inputs:
            return inputs
        begun = (inputs["input_ids"] == model.config.image_token_id).cumsum(1) > 0  # row position
        tiles = inputs["aspect_ratio_mask"].bool()  # row image tile
        return inputs | {"cross_attention_mask": (begun[:, :, None, None] & tiles[:, None]).long()}
