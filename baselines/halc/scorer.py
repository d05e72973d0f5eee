"""How well texts fit an image: by BLIP's image-text matching, by CLIP, or for mini by its own vision tower."""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoConfig, AutoProcessor, BlipForImageTextRetrieval, CLIPModel

from llava_hh.baselines.halc.detector import MiniDetector, check_folder, mini_categories
from llava_hh.baselines.halc.settings import HalcSettings
from llava_hh.mini.world import CATEGORIES
from llava_hh.models.hub import local_folder
from llava_hh.models.without_code import from_folder

SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


def load_scorer(settings: HalcSettings) -> "ImageTextMatcher | MiniScorer":
    """The scorer that the settings name; loaded once.

    Raises:
        ValueError: a checkpoint of another kind.
        FileNotFoundError: there is no checkpoint.
    """
    return named_scorer(settings.scorer)


@lru_cache(maxsize=1)
def named_scorer(name: str) -> "ImageTextMatcher | MiniScorer":
    """The scorer of a folder or of the hub, or "mini"; raises as `load_scorer`."""
    return MiniScorer() if name == "mini" else ImageTextMatcher(local_folder(name, any_kind=True))


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
        self.model, loading = from_folder(kinds[self.kind], path, output_loading_info=True)
        if missing := sorted(loading["missing_keys"]):
            raise ValueError(f"{path}: weights missing: {', '.join(missing[:5])}")
        self.model.eval().requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")
        self.processor = from_folder(AutoProcessor, path)
        self.tokenizer = self.processor.tokenizer
        self.tokenizer.truncation_side = "left"  # the word stands at the end
        self.longest = min(self.tokenizer.model_max_length, self.model.config.text_config.max_position_embeddings)

    @torch.no_grad()
    def score(self, image: Image.Image, texts: Sequence[str]) -> list[float]:
        """One number per text, larger for a better fit; comparable for the texts of one call.

        Args:
            texts: captions up to the word that is being chosen, which differ in that word.
        """
        if max(map(len, self.tokenizer(list(texts), verbose=False).input_ids)) > self.longest:
            texts = [SENTENCE_END.split(text.strip())[-1] for text in texts]
        cut = {"padding": True, "truncation": True, "max_length": self.longest}
        inputs = self.processor(images=image, text=list(texts), return_tensors="pt", **cut).to(self.model.device)
        if self.kind == "clip":
            return self.model(**inputs).logits_per_image[0].tolist()
        inputs["pixel_values"] = inputs["pixel_values"].expand(len(texts), -1, -1, -1)
        return self.model(**inputs).itm_score.softmax(-1)[:, 1].tolist()


class MiniScorer:
    """How many of the objects that a text names mini's own vision tower sees, less those that it does not see."""

    def __init__(self):
        self.detector = MiniDetector()

    def score(self, image: Image.Image, texts: Sequence[str]) -> list[float]:
        seen = {*self.detector.classes(image).flatten().tolist()}
        named = [{CATEGORIES.index(node) for node in mini_categories(text)} for text in texts]
        return [float(len(indices & seen) - len(indices - seen)) for indices in named]
