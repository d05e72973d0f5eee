"""Where in an image a word's thing is: GroundingDINO, or on mini its own patch classifier."""

from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

from baselines.halc.settings import MINI_TOWER, HalcSettings
from baselines.halc.windows import Box, area
from llava_hh.metrics.chair.chair import find_objects
from llava_hh.mini.vision import PATCH, PIXEL_MEAN, PIXEL_STD, load_vision_tower, patch_features
from llava_hh.mini.world import CATEGORIES, IMAGE_PIXELS
from llava_hh.models.weight_files import check_files
from llava_hh.models.without_code import from_folder


class Detector(Protocol):
    def detect(self, image: Image.Image, word: str) -> list[Box] | None:
        """Boxes of what the word names, best first; None if the detector can't know such a thing."""


def load_detector(settings: HalcSettings) -> Detector:
    """The detector that the settings name; loaded once.

    Raises:
        ValueError: GroundingDINO's original file.
        FileNotFoundError: no checkpoint there.
    """
    if settings.detector == "mini":
        return _mini()
    return _grounding_dino(
        settings.detector, settings.box_threshold, settings.text_threshold, settings.min_area, settings.duplicate_iou
    )


def check_folder(path: Path, wanted: str) -> None:
    """Refuse what is not the folder of a checkpoint.

    Raises:
        ValueError: GroundingDINO's original file, a Git LFS pointer, or damaged JSON.
        FileNotFoundError: no config.json there.
    """
    if path.suffix == ".pth" or list(path.glob("*.pth")):
        raise ValueError(f"{path}: GroundingDINO's original file; get {wanted}")
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path}: no config.json there; get {wanted}")
    check_files(path)


class GroundingDino:
    """GroundingDINO asked for one word at a time, thresholds as HALC's.

    Source: HALC's detector.py; boxes are clipped to the image and rounded to three decimals.
    """

    def __init__(self, path: Path, box_threshold: float, text_threshold: float, min_area: float, iou: float):
        check_folder(path, "IDEA-Research/grounding-dino-tiny in the transformers layout, the same model")
        self.model = from_folder(AutoModelForZeroShotObjectDetection, path).eval()
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.processor = from_folder(AutoProcessor, path)
        self.thresholds, self.min_area, self.iou = (box_threshold, text_threshold), min_area, iou

    @torch.no_grad()
    def detect(self, image: Image.Image, word: str) -> list[Box]:
        inputs = self.processor(images=image, text=f"{word.lower()}.", return_tensors="pt").to(self.model.device)
        found = self.processor.post_process_grounded_object_detection(
            self.model(**inputs), inputs["input_ids"], *self.thresholds
        )[0]
        order = found["scores"].argsort(descending=True, stable=True).tolist()
        named = [place for place in order if found["text_labels"][place]]
        boxes = [tuple(round(min(max(end, 0.0), 1.0), 3) for end in found["boxes"][place].tolist()) for place in named]
        return distinct_boxes(boxes, self.min_area, self.iou)


class MiniDetector:
    """mini's vision tower with the patch classifier that it was trained by: patches of the asked class, as boxes.

    It is the eye of the very model that is checked, and knows mini's categories only; so on mini HALC has a better
    detector than it could have elsewhere.
    """

    def __init__(self, tower: Path = MINI_TOWER):
        if not tower.is_file():
            raise FileNotFoundError(f"{tower}: mini's vision tower is not there")
        self.tower, self.head = load_vision_tower(tower)

    @torch.no_grad()
    def classes(self, image: Image.Image) -> np.ndarray:
        """The class of each patch, (row, column): an index of CATEGORIES, or their number for the background."""
        resized = image.convert("RGB").resize((IMAGE_PIXELS, IMAGE_PIXELS), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1)[None].float() / 255
        logits = self.head(patch_features(self.tower, (pixels - PIXEL_MEAN) / PIXEL_STD))
        return logits.argmax(-1).view(IMAGE_PIXELS // PATCH, -1).numpy()

    def detect(self, image: Image.Image, word: str) -> list[Box] | None:
        nodes = mini_categories(word)
        if not nodes:
            return None
        rows, columns = np.nonzero(np.isin(self.classes(image), [CATEGORIES.index(node) for node in nodes]))
        patch = PATCH / IMAGE_PIXELS
        # a patch is marked where an object's centre lies; objects are up to twice as wide
        boxes = [
            (column * patch - patch / 2, row * patch - patch / 2, (column + 1.5) * patch, (row + 1.5) * patch)
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        ]
        return [tuple(min(max(end, 0.0), 1.0) for end in box) for box in boxes]


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
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = area(first) + area(second) - shared
    return shared / union if union else 0.0


@lru_cache(maxsize=1)
def _mini() -> MiniDetector:
    return MiniDetector()


@lru_cache(maxsize=1)
def _grounding_dino(path: str, *settings: float) -> GroundingDino:
    return GroundingDino(Path(path), *settings)
