"""LLaVA in the transformers layout: mini, and llava-hf/llava-1.5 checkpoints."""

from pathlib import Path
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor


class Llava:
    """Prompt by the checkpoint's own chat template; image positions by the image token id."""

    def load(self, path: Path, **options: Any) -> LlavaForConditionalGeneration:
        model, report = LlavaForConditionalGeneration.from_pretrained(path, output_loading_info=True, **options)
        if report["missing_keys"]:
            raise ValueError(f"{path}: weights missing: {', '.join(sorted(report['missing_keys'])[:5])}")
        return model

    def prompt(self, processor: LlavaProcessor, question: str, with_image: bool) -> str:
        content = [{"type": "image"}] * with_image + [{"type": "text", "text": question}]
        return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    def decoder_layers(self, model: LlavaForConditionalGeneration) -> torch.nn.ModuleList:
        return model.model.language_model.layers

    def image_token_ids(self, model: LlavaForConditionalGeneration) -> list[int]:
        return [model.config.image_token_id]
