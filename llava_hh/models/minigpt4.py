"""MiniGPT-4 on Llama-2, asked as the paper's harness asks it, or as MiniGPT-4 was trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from llava_hh.models.minigpt4_checkpoint import assemble, stored_tensors
from llava_hh.models.minigpt4_model import (
    IMAGE_TOKEN,
    MiniGpt4Config,
    MiniGpt4ForConditionalGeneration,
    MiniGpt4Processor,
)
from llava_hh.models.weight_files import listed
from llava_hh.models.without_code import from_folder

# What stands before and after a question, by the field `prompt` of a checkpoint's config.json. "harness", the default,
# is what the paper's comparison used: the words of MiniGPT-4 on Vicuna. "official" is MiniGPT-4's own for Llama-2.
PROMPTS = {"harness": ("###Human: ", " ###Assistant:"), "official": ("[INST] ", " [/INST] ")}


class MiniGpt4:
    """A folder of ours that names the published parts, or one that `save_pretrained` left."""

    stored_tensors = staticmethod(stored_tensors)

    def load(self, path: Path, **options: Any) -> tuple[MiniGpt4ForConditionalGeneration, MiniGpt4Processor]:
        """The model and its processor.

        Raises:
            FileNotFoundError, ValueError: as `assemble`; a prompt that we don't know, weights that are missing.
        """
        config = from_folder(MiniGpt4Config, path)
        if config.prompt not in PROMPTS:
            raise ValueError(f"{path / 'config.json'}: prompt {config.prompt!r}; expected one of: {', '.join(PROMPTS)}")
        if config.parts is None:
            model, report = from_folder(MiniGpt4ForConditionalGeneration, path, output_loading_info=True, **options)
            if report["missing_keys"]:
                raise ValueError(f"{path}: weights missing: {listed(report['missing_keys'])}")
            processor = from_folder(MiniGpt4Processor, path)
        else:
            model, processor = assemble(path, config, **options)
        self.opening, self.closing = PROMPTS[config.prompt]
        self.image_ids = [model.config.image_token_id] * model.config.image_length
        return model, processor

    def encode(
        self, processor: MiniGpt4Processor, images: Sequence[Image.Image | None], questions: Sequence[str]
    ) -> tuple[list[list[int]], dict[str, torch.Tensor]]:
        """Token ids of each row, with the image's expanded, and the other inputs of the model.

        Text before and after the image is tokenised on its own. An image is squashed to a square.

        Raises:
            ValueError: a question that holds the placeholder itself.
        """
        rows = []
        for image, question in zip(images, questions, strict=True):
            if IMAGE_TOKEN in question:
                raise ValueError(f"the prompt {question!r} holds {IMAGE_TOKEN}; the image is put there for you")
            row = [processor.tokenizer.bos_token_id]
            if image is None:
                row += ids_of(processor, self.opening + question + self.closing)
            else:
                row += ids_of(processor, f"{self.opening}<Img>") + self.image_ids
                row += ids_of(processor, f"</Img> {question}{self.closing}")
            rows.append(row)
        shown = [image for image in images if image is not None]
        if not shown:
            return rows, {}
        return rows, {"pixel_values": processor.image_processor(shown, return_tensors="pt")["pixel_values"]}

    def answer_parts(
        self, processor: MiniGpt4Processor, turns: Sequence[tuple[str, str]], with_image: bool, ends: Sequence[int]
    ) -> list[tuple[list[int], bool]]:
        """What follows the first question in a conversation: token ids, and whether they belong to an answer.

        An answer ends with Llama's end token under both prompts, since that is what ends a generated one.
        """
        parts = []
        for place, (_, answer) in enumerate(turns):
            if place:
                parts.append((ids_of(processor, self.opening + turns[place][0] + self.closing), False))
            parts.append(([*ids_of(processor, answer), ends[0]], True))
        return parts

    def read_answer(self, text: str) -> str:
        """An answer without what follows "###", where the next turn would begin, or precedes "Assistant:".

        Source: MiniGPT-4's and the paper's harness's post-processing, which runs under either prompt.
        """
        return text.split("###")[0].split("Assistant:")[-1]

    def image_token_ids(self, model: MiniGpt4ForConditionalGeneration) -> list[int]:
        return [model.config.image_token_id]


def ids_of(processor: MiniGpt4Processor, text: str) -> list[int]:
    return list(processor.tokenizer(text, add_special_tokens=False).input_ids)
