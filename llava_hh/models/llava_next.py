"""LLaVA-1.6: the whole image and tiles of it, as many as its shape asks for, each row of patches with a newline behind.

A checkpoint is asked by its own chat template. One without (an original) gets its training's prompt: chatml_direct
where the vocabulary has ChatML's tokens (34B), else vicuna_v1. `"prompt": "vicuna_v1"` in config.json chooses; the
paper's scripts left that one on for 34B.
"""

from pathlib import Path
from typing import Any

from transformers import LlavaNextForConditionalGeneration, LlavaNextProcessor

from llava_hh.models.chat import ChatFamily
from llava_hh.models.checkpoint import load_checkpoint
from llava_hh.models.llava import VICUNA_SYSTEM, complete_image_length, suppress_unspoken
from llava_hh.models.original_fields import read_fields

_PARTS = (
    "{% for part in message.content if part.type == 'image' %}<image>\n{% endfor %}"
    "{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}"
)
# source: LLaVA's conversation templates of these names
PROMPTS = {
    "chatml_direct": (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nAnswer the questions.<|im_end|>{% endif %}"
        "{% for message in messages %}"
        "<|im_start|>{{ message.role }}\n" + _PARTS + "<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "vicuna_v1": (
        "{% if messages[0].role != 'system' %}" + VICUNA_SYSTEM + "{% endif %}{% for message in messages %}"
        "{% if message.role == 'user' %} USER: " + _PARTS + " ASSISTANT:{% else %}" + _PARTS + "{% endif %}"
        "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    ),
}


class LlavaNext(ChatFamily):
    """The span of an image is all of its tokens: the whole image, the tiles and their newlines."""

    model_class = LlavaNextForConditionalGeneration
    processor_class = LlavaNextProcessor
    image_tensors = ("pixel_values", "image_sizes")

    def load(self, path: Path, **options: Any) -> tuple[LlavaNextForConditionalGeneration, LlavaNextProcessor]:
        """The model and its processor.

        Raises:
            FileNotFoundError: a part that is not there.
            ValueError: weights that do not fit, or a `prompt` in config.json that is not known.
        """
        model, processor = load_checkpoint(self.model_class, path, **options)
        chosen = read_fields(path).get("prompt")
        if chosen is not None and chosen not in PROMPTS:
            raise ValueError(f"{path / 'config.json'}: prompt {chosen!r}; expected one of: {', '.join(PROMPTS)}")
        template = processor.chat_template or processor.tokenizer.chat_template
        if chosen is None and template is None:
            chosen = "chatml_direct" if "<|im_start|>" in processor.tokenizer.get_vocab() else "vicuna_v1"
        processor.chat_template = template if chosen is None else PROMPTS[chosen]
        complete_image_length(processor, model.config)
        suppress_unspoken(processor, model)
        return model, processor
