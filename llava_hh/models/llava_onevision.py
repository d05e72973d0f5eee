"""LLaVA-OneVision: the whole image and tiles of it, as many as its size asks for."""

from transformers import LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor

from llava_hh.models.chat import ChatFamily


class LlavaOnevision(ChatFamily):
    model_class = LlavaOnevisionForConditionalGeneration
    processor_class = LlavaOnevisionProcessor
    image_tensors = ("pixel_values", "image_sizes")
