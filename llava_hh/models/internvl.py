"""InternVL3 in the transformers layout: the image's tiles and a thumbnail, each of a fixed number of tokens."""

from transformers import InternVLForConditionalGeneration, InternVLProcessor

from llava_hh.models.chat import ChatFamily


class InternVL(ChatFamily):
    model_class = InternVLForConditionalGeneration
    processor_class = InternVLProcessor
