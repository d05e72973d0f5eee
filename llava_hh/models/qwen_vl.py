"""Qwen2.5-VL and Qwen3-VL: images of any size as patches in one row, positions in three dimensions."""

import transformers
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from llava_hh.models.chat import ChatFamily


class Qwen25VL(ChatFamily):
    model_class = transformers.Qwen2_5_VLForConditionalGeneration
    processor_class = transformers.Qwen2_5_VLProcessor
    image_tensors = ("pixel_values", "image_grid_thw")

    def complete(self, model: PreTrainedModel, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inputs with the kind of each position (0 text, 1 image), from which the model counts rows and columns."""
        if "pixel_values" not in inputs:
            return inputs
        return inputs | {"mm_token_type_ids": (inputs["input_ids"] == model.config.image_token_id).int()}

    def image_pixels(self, processor: ProcessorMixin, inputs: dict[str, Tensor]) -> tuple[Tensor, list[int]]:
        """The patches of all images, (frame, patch, channel, height, width), and how many patches each image has.

        An image is a film of equal frames, as many as the model's patches are deep. The pixels are a view.
        """
        images = processor.image_processor
        frames = (-1, images.temporal_patch_size, images.patch_size, images.patch_size)
        pixels = inputs["pixel_values"].unflatten(1, frames).movedim(2, 0)
        return pixels, inputs["image_grid_thw"].prod(1).tolist()


class Qwen3VL(Qwen25VL):
    model_class = transformers.Qwen3VLForConditionalGeneration
    processor_class = transformers.Qwen3VLProcessor
