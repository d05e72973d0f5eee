"""LLaVA-1.5 as the paper's comparison of decoding methods asked it (its `baselines/`), unlike its other scripts.

A folder of ours holds no weights but a config.json that names a checkpoint of LLaVA-1.5, original or not, by paths
relative to that folder or absolute, of which the first that is there counts:

    {"model_type": "llava_harness", "parts": {"model": ["../llava-v1.5-7b", "../llava-1.5-7b-hf"]}}
"""

from pathlib import Path
from typing import Any

from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from llava_hh.models.checkpoint import stored_tensors
from llava_hh.models.image_grid import ImageGrid, central_square, square_grid
from llava_hh.models.llava import Llava, vicuna_prompt
from llava_hh.models.original_fields import part_of, read_fields
from llava_hh.models.weight_files import StoredTensor


class LlavaHarness(Llava):
    """What differs: no blank before "USER:", the image's centre instead of padding, sentences that are dropped."""

    def load(self, path: Path, **options: Any) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
        """The named checkpoint's model and processor.

        Raises:
            FileNotFoundError: none of the named folders is there, or one lacks a part.
            ValueError: it is not LLaVA-1.5, or weights do not fit.
        """
        folder = weights_folder(path)
        model, processor = super().load(folder, **options)
        if not self.speaks_vicuna:
            raise ValueError(f"{folder}: not LLaVA-1.5, which alone {path} can ask as the paper's comparison did")
        return model, processor

    def prompt(self, question: str, image_token: str | None) -> str:
        """vicuna_v1, with nothing between the system's text and "USER:"."""
        return vicuna_prompt(question, image_token).replace(" USER:", "USER:", 1)

    def square(self, processor: LlavaProcessor, image: Image.Image) -> Image.Image:
        """The whole image, of which CLIP's processor takes the centre."""
        return image

    def image_grid(self, processor: LlavaProcessor, image: Image.Image, inputs: dict, n_tokens: int) -> ImageGrid:
        """Rows of patches over the central square."""
        return square_grid(n_tokens, central_square(image.size))

    def read_answer(self, text: str) -> str:
        """What `harness_answer` keeps."""
        return harness_answer(text)

    @staticmethod
    def stored_tensors(path: Path) -> list[StoredTensor]:
        """The tensors of the named checkpoint."""
        return stored_tensors(weights_folder(path))


def weights_folder(path: Path) -> Path:
    """The folder with the checkpoint that a folder of ours names.

    Raises:
        FileNotFoundError: there is none.
        ValueError: none is named.
    """
    parts = read_fields(path).get("parts")
    if not isinstance(parts, dict) or "model" not in parts:
        raise ValueError(f"{path / 'config.json'}: no checkpoint is named there; expected parts with a model")
    return part_of(path, "model", parts["model"])


def harness_answer(text: str) -> str:
    """An answer up to "###", without the sentences that have "unk" in them, as in trunk or skunk.

    A sentence is what stands between two periods. The comparison did so for all methods and both models.

    Source: the paper's harness, whose HALC writes <unk> for a word that it takes back.
    """
    return ".".join(sentence for sentence in text.split("###")[0].split(".") if "unk" not in sentence)
