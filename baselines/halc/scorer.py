"""How well texts fit an image: BLIP's image-text matching, CLIP, or on mini what its own vision tower sees."""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from transformers import AutoConfig, AutoProcessor, BlipForImageTextRetrieval, CLIPModel

from baselines.halc.detector import MiniDetector, check_folder, mini_categories
from baselines.halc.settings import HalcSettings
from llava_hh.mini.world import CATEGORIES
from llava_hh.models.without_code import from_folder

SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


class Scorer(Protocol):
    def score(self, image: Image.Image, texts: Sequence[str]) -> list[float]:
        """One number per text, larger for a better fit; comparable for the texts of one call.

        Args:
            texts: captions up to the word that is being chosen, which differ in that word.
        """


def load_scorer(settings: HalcSettings) -> Scorer:
    """The scorer that the settings name; loaded once.

    Raises:
        ValueError: a checkpoint of another kind.
        FileNotFoundError: no checkpoint there.
    """
    return _mini() if settings.scorer == "mini" else _matcher(settings.scorer)


class ImageTextMatcher:
    """BLIP's probability that image and text match, or CLIP's similarity.

    Where a caption is longer than the model can read (77 tokens for CLIP), the sentence that holds the word is scored,
    or the last tokens of a sentence that is too long itself.

    Differs: the code scores by a `BlipModel` filled from a captioning checkpoint, which has no text tower: its texts
    are scored by random weights.
    """

    def __init__(self, path: Path):
        check_folder(path, "Salesforce/blip-itm-base-coco or a CLIP in the transformers layout")
        kinds = {"blip": BlipForImageTextRetrieval, "clip": CLIPModel}
        self.kind = from_folder(AutoConfig, path).model_type
        if self.kind not in kinds:
            raise ValueError(f"{path}: a {self.kind}; expected a BLIP image-text matcher or a CLIP")
        self.model, report = from_folder(kinds[self.kind], path, output_loading_info=True)
        if report["missing_keys"]:
            raise ValueError(f"{path}: weights missing: {', '.join(sorted(report['missing_keys'])[:5])}")
        self.model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self.processor = from_folder(AutoProcessor, path)
        self.tokenizer = self.processor.tokenizer
        self.tokenizer.truncation_side = "left"  # the word stands at the end
        self.longest = min(self.tokenizer.model_max_length, self.model.config.text_config.max_position_embeddings)

    @torch.no_grad()
    def score(self, image: Image.Image, texts: Sequence[str]) -> list[float]:
        if max(map(len, self.tokenizer(list(texts), verbose=False).input_ids)) > self.longest:
            texts = [SENTENCE_END.split(text.strip())[-1] for text in texts]
        cut = {"padding": True, "truncation": True, "max_length": self.longest}
        inputs = self.processor(images=image, text=list(texts), return_tensors="pt", **cut).to(self.model.device)
        if self.kind == "clip":
            return self.model(**inputs).logits_per_image[0].tolist()
        inputs["pixel_values"] = inputs["pixel_values"].expand(len(texts), -1, -1, -1)
        return self.model(**inputs).itm_score.softmax(-1)[:, 1].tolist()


class MiniScorer:
    """Objects that a text names and mini's own vision tower sees, less those that it doesn't."""

    def __init__(self):
        self.eye = MiniDetector()

    def score(self, image: Image.Image, texts: Sequence[str]) -> list[float]:
        seen = {
            CATEGORIES[place] for place in set(self.eye.classes(image).flatten().tolist()) if place < len(CATEGORIES)
        }
        return [float(sum(1 if node in seen else -1 for node in set(mini_categories(text)))) for text in texts]


@lru_cache(maxsize=1)
def _mini() -> MiniScorer:
    return MiniScorer()


@lru_cache(maxsize=1)
def _matcher(path: str) -> ImageTextMatcher:
    return ImageTextMatcher(Path(path))
