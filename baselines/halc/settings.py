"""HALC's settings and presets."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from baselines.dola import DolaSettings
from baselines.settings import is_number, is_share, is_whole, require

MINI_TOWER = Path(__file__).resolve().parents[2] / "checkpoints" / "mini" / "adapters" / "vision_tower.safetensors"
# both lists: baselines/decoder_zoo/HALC/context_density/halc.py of the paper's repository
RELEASED_EXEMPT = (
    "image",
    "side",
    "background",
    "feature",
    "features",
    "center",
    "left",
    "right",
    "scene",
    "view",
    "s",
    "Birthday",
    "detail",
    "red",
    "white",
    "cat",
    "horse",
    "bus",
    "group",
    "manner",
    "her",
    "birds",
    "teddy",
    "stack",
    "cell",
    "toaster",
    "mirror",
    "captures",
)
RELEASED_ALWAYS = ("sink", "microwave", "toaster", "puppy", "bottle", "table", "oven", "orange", "toothbrush", "cars")


@dataclass(frozen=True)
class HalcSettings:
    """Settings of HALC.

    Args:
        detector: folder of a GroundingDINO in the transformers layout, or "mini", see `detector.MiniDetector`.
        scorer: folder of a BLIP image-text matcher or of a CLIP, or "mini", see `scorer.MiniScorer`.
        base: the decoding between the checks.
        candidates: how many tokens the windows propose in place of a word's first, an even number.
        expand_ratio: how much wider and higher each window is than the one before; the smallest is so much smaller
            than the box.
        contrast_weight: how many times one window's logits are taken from the other's.
        box_threshold, text_threshold, min_area, duplicate_iou: of GroundingDINO: least probability of a box and of a
            word of its phrase; boxes of a smaller share of the image are left out, and those that overlap a better one
            by more.
        max_boxes: words with more boxes are not checked.
        skip_rate: share of the words that are not checked, by chance.
        exempt_words, always_words: never checked; checked whatever their part of speech and chance say.
        variant: "released" reads words as the code does: a word before a comma is not checked, a final s is cut off,
            a caption ends after nine immediate repetitions.
        seed: of the chance, together with the sample's id.

    Raises:
        ValueError: a field that is not allowed.
    """

    detector: str = "checkpoints/grounding-dino-tiny"
    scorer: str = "checkpoints/blip-itm-base-coco"
    base: DolaSettings = field(default_factory=DolaSettings)
    candidates: int = 4
    expand_ratio: float = 0.6
    contrast_weight: float = 0.05
    box_threshold: float = 0.4
    text_threshold: float = 0.4
    min_area: float = 0.01
    duplicate_iou: float = 0.6
    max_boxes: int = 3
    skip_rate: float = 0.0
    exempt_words: tuple[str, ...] = ()
    always_words: tuple[str, ...] = ()
    variant: Literal["clean", "released"] = "clean"
    seed: int = 42

    def tools(self) -> dict[str, Path]:
        """Where the weights of detector and scorer lie."""
        named = {"detector": self.detector, "scorer": self.scorer}
        return {name: MINI_TOWER if text == "mini" else Path(text) for name, text in named.items()}

    def __post_init__(self) -> None:
        for name in ("detector", "scorer"):
            require(self, name, isinstance(getattr(self, name), str) and getattr(self, name), "a folder or 'mini'")
        require(self, "base", isinstance(self.base, DolaSettings), "DolaSettings")
        even = is_whole(self.candidates, 2) and self.candidates % 2 == 0 and self.candidates <= 12
        require(self, "candidates", even, "an even number from 2 to 12, for four windows have six pairs")
        require(self, "expand_ratio", is_number(self.expand_ratio) and self.expand_ratio > 0, "a number above 0")
        require(self, "contrast_weight", is_number(self.contrast_weight, 0), "a number of at least 0")
        for name in ("box_threshold", "text_threshold", "duplicate_iou"):
            require(self, name, is_share(getattr(self, name)), "above 0 and at most 1")
        for name in ("min_area", "skip_rate"):
            value = getattr(self, name)
            require(self, name, is_number(value, 0) and value <= 1, "from 0 to 1")
        require(self, "max_boxes", is_whole(self.max_boxes, 1), "a whole number of at least 1")
        for name in ("exempt_words", "always_words"):
            words = getattr(self, name)
            if isinstance(words, list):  # from the text of a method, whose lists are JSON
                words = tuple(words)
                object.__setattr__(self, name, words)
            strings = isinstance(words, tuple) and all(isinstance(word, str) for word in words)
            require(self, name, strings, "a list of words")
        require(self, "variant", self.variant in ("clean", "released"), "'clean' or 'released'")
        require(self, "seed", is_whole(self.seed), "a whole number of at least 0")


PRESETS = {
    "halc_clean": HalcSettings(),
    "halc_repo": HalcSettings(
        base=DolaSettings(candidate_layers="even"),
        skip_rate=0.5,
        exempt_words=RELEASED_EXEMPT,
        always_words=RELEASED_ALWAYS,
        variant="released",
    ),
}
