"""Detectors of what a word names in an image: GroundingDINO, or for mini its own patch classifier."""

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

from llava_hh.baselines.halc.original_detector import load_original
from llava_hh.baselines.halc.settings import MINI_TOWER, HalcSettings, dino_files
from llava_hh.baselines.halc.windows import Box, area
from llava_hh.metrics.chair.chair import find_objects
from llava_hh.mini.vision import PATCH, load_vision_tower, normalised, patch_features
from llava_hh.mini.world import CATEGORIES, IMAGE_PIXELS
from llava_hh.models.weight_files import check_files
from llava_hh.models.without_code import from_folder


def load_detector(settings: HalcSettings) -> "GroundingDino | MiniDetector":
    """The detector that the settings name; loaded once.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: weights that do not fit.
    """
    thresholds = settings.box_threshold, settings.text_threshold, settings.min_area, settings.duplicate_iou
    return _load(settings.detector, *thresholds)


@lru_cache(maxsize=1)
def _load(name: str, *thresholds: float) -> "GroundingDino | MiniDetector":
    return MiniDetector() if name == "mini" else GroundingDino(name, *thresholds)


def check_folder(path: Path, wanted: str) -> None:
    """Refuse a path that is not the folder of a checkpoint.

    Raises:
        ValueError: a Git LFS pointer, or damaged JSON.
        FileNotFoundError: the folder has no config.json.
    """
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path}: no config.json there; get {wanted}")
    check_files(path)


class GroundingDino:
    """GroundingDINO asked for one word at a time, thresholds as HALC's.

    Source: HALC's detector.py; boxes are clipped to the image and rounded to three decimals.
    """

    def __init__(self, named: str, box_threshold: float, text_threshold: float, min_area: float, iou: float):
        path, weights = dino_files(named)
        what = "its config.json, tokenizer and preprocessor" if weights else "in the transformers layout"
        check_folder(path, f"IDEA-Research/grounding-dino-tiny ({what})")
        if weights:
            self.model = load_original(weights, path)
        else:
            self.model = from_folder(AutoModelForZeroShotObjectDetection, path).eval()
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.processor = from_folder(AutoProcessor, path)
        self.thresholds, self.min_area, self.iou = (box_threshold, text_threshold), min_area, iou

    @torch.no_grad()
    def detect(self, image: Image.Image, word: str) -> list[Box]:
        """Boxes of what the word names, best first."""
        inputs = self.processor(images=image, text=f"{word.lower()}.", return_tensors="pt").to(self.model.device)
        detected = self.processor.post_process_grounded_object_detection(
            self.model(**inputs), inputs["input_ids"], *self.thresholds
        )[0]
        order = detected["scores"].argsort(descending=True, stable=True).tolist()
        ends = detected["boxes"].clamp(0, 1).tolist()
        boxes = [tuple(round(end, 3) for end in ends[index]) for index in order if detected["text_labels"][index]]
        return distinct_boxes(boxes, self.min_area, self.iou)


class MiniDetector:
    """mini's own vision tower with the patch classifier that it was trained by: patches of the asked class, as boxes.

    It belongs to the model that is checked and knows mini's categories only. So HALC has a better detector on mini than
    it can have elsewhere.
    """

    def __init__(self, tower: Path = MINI_TOWER):
        self.tower, self.head = load_vision_tower(tower)

    @torch.no_grad()
    def classes(self, image: Image.Image) -> np.ndarray:
        """The class of each patch, (row, column): an index of CATEGORIES, or their number for the background."""
        resized = image.convert("RGB").resize((IMAGE_PIXELS, IMAGE_PIXELS), Image.Resampling.BICUBIC)
        logits = self.head(patch_features(self.tower, normalised(np.asarray(resized)[None])))
        return logits.argmax(-1).view(IMAGE_PIXELS // PATCH, -1).numpy()

    def detect(self, image: Image.Image, word: str) -> list[Box] | None:
        """Boxes of what the word names; None if the word names no category of mini."""
        if not (nodes := mini_categories(word)):
            return None
        rows, columns = np.nonzero(np.isin(self.classes(image), [CATEGORIES.index(node) for node in nodes]))
        patch = PATCH / IMAGE_PIXELS
        # a patch is marked where an object's centre lies; objects are up to twice as wide
        ends = columns * patch - patch / 2, rows * patch - patch / 2, (columns + 1.5) * patch, (rows + 1.5) * patch
        return [tuple(box) for box in np.stack(ends, 1).clip(0, 1).tolist()]


def mini_categories(text: str) -> list[str]:
    """The categories of mini that a text names, by CHAIR's synonyms, in order."""
    return [mention.node for mention in find_objects(text) if mention.node in CATEGORIES]


def distinct_boxes(boxes: list[Box], min_area: float, iou: float) -> list[Box]:
    """Boxes of at least `min_area`, without those that overlap an earlier one by more than `iou`."""
    kept: list[Box] = []
    for box in boxes:
        if area(box) >= min_area and all(overlap(box, other) <= iou for other in kept):
            kept.append(box)
    return kept


def overlap(first: Box, second: Box) -> float:
    """Intersection over union."""
    sides = (min(first[end + 2], second[end + 2]) - max(first[end], second[end]) for end in (0, 1))
    shared = math.prod(max(side, 0.0) for side in sides)
    union = area(first) + area(second) - shared
    return shared / union if union else 0.0
