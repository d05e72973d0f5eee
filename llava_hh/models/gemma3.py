"""Gemma 3: an image is a fixed number of tokens that all see each other; most layers slide over a window."""

from torch import Tensor
from transformers import Gemma3ForConditionalGeneration, Gemma3Processor, PreTrainedModel

from llava_hh.models.chat import ChatFamily


class Gemma3(ChatFamily):
    model_class = Gemma3ForConditionalGeneration
    processor_class = Gemma3Processor
    lists_images = True

    def complete(self, model: PreTrainedModel, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inputs with the kind of every position (0 text, 1 image), from which the model makes its mask."""
        return inputs | {"token_type_ids": (inputs["input_ids"] == model.config.image_token_id).long()}
