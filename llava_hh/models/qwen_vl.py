"""Qwen2.5-VL and Qwen3-VL: images of any size as patches in one row, positions in three dimensions."""

from torch import Tensor
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)

from llava_hh.models.chat import ChatFamily


class Qwen25VL(ChatFamily):
    model_class = Qwen2_5_VLForConditionalGeneration
    processor_class = Qwen2_5_VLProcessor
    image_tensors = ("pixel_values", "image_grid_thw")

    def complete(self, model: PreTrainedModel, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """With the kind of every position (0 text, 1 image), from which the model counts rows and columns."""
        if "pixel_values" not in inputs:
            return inputs
        return inputs | {"mm_token_type_ids": (inputs["input_ids"] == model.config.image_token_id).int()}


class Qwen3VL(Qwen25VL):
    model_class = Qwen3VLForConditionalGeneration
    processor_class = Qwen3VLProcessor
