"""HALC's settings and presets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from llava_hh.baselines.dola import DolaSettings
from llava_hh.baselines.settings import FRACTION, POSITIVE, SHARE, CheckedSettings, Rule, at_least, whole
from llava_hh.models.hub import local_folder
from llava_hh.models.weight_files import weight_files

MINI_TOWER = Path(__file__).resolve().parents[2] / "checkpoints" / "mini" / "adapters" / "vision_tower.safetensors"
# both lists: baselines/decoder_zoo/HALC/context_density/halc.py of the paper's repository
_EXEMPT = """
    image side background feature features center left right scene view s Birthday detail red white cat horse bus group
    manner her birds teddy stack cell toaster mirror captures
"""
RELEASED_EXEMPT = tuple(_EXEMPT.split())
RELEASED_ALWAYS = ("sink", "microwave", "toaster", "puppy", "bottle", "table", "oven", "orange", "toothbrush", "cars")

DINO = "checkpoints/grounding-dino-tiny"
# where the paper's repository puts GroundingDINO as its authors published it
ORIGINAL_DINO = Path(__file__).resolve().parents[1] / "decoder_zoo/GroundingDINO/weights/groundingdino_swint_ogc.pth"

TOOL = Rule("a folder, org/name of the hub, or 'mini'", lambda value: isinstance(value, str) and value != "")
EVEN_WORDS = "an even number from 2 to 12, for four windows have six pairs"
EVEN = Rule(EVEN_WORDS, lambda value: type(value) is int and value in range(2, 13, 2))
WORDS = Rule("a list of words", lambda value: isinstance(value, tuple) and all(isinstance(word, str) for word in value))


@dataclass(frozen=True)
class HalcSettings(CheckedSettings):
    """Settings of HALC.

    Args:
        detector: folder of a GroundingDINO in the transformers layout or its name on the hub, its original file (.pth;
            the folder DINO then describes it, and the file is looked for at ORIGINAL_DINO where the folder has no
            weights), or "mini", see `detector.MiniDetector`.
        scorer: folder of a BLIP image-text matcher or of a CLIP or its name on the hub, or "mini", see
            `scorer.MiniScorer`.
        base: the decoding between the checks.
        candidates: how many first tokens of a word the windows propose, an even number.
        expand_ratio: by what ratio each window is wider and higher than the one before; the smallest is smaller than
            the box by the same ratio.
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

    detector: Annotated[str, TOOL] = DINO
    scorer: Annotated[str, TOOL] = "checkpoints/blip-itm-base-coco"
    base: Annotated[DolaSettings, Rule("DolaSettings", lambda value: isinstance(value, DolaSettings))] = DolaSettings()
    candidates: Annotated[int, EVEN] = 4
    expand_ratio: Annotated[float, POSITIVE] = 0.6
    contrast_weight: Annotated[float, at_least(0)] = 0.05
    box_threshold: Annotated[float, SHARE] = 0.4
    text_threshold: Annotated[float, SHARE] = 0.4
    min_area: Annotated[float, FRACTION] = 0.01
    duplicate_iou: Annotated[float, SHARE] = 0.6
    max_boxes: Annotated[int, whole(1)] = 3
    skip_rate: Annotated[float, FRACTION] = 0.0
    exempt_words: Annotated[tuple[str, ...], WORDS] = ()
    always_words: Annotated[tuple[str, ...], WORDS] = ()
    variant: Literal["clean", "released"] = "clean"
    seed: Annotated[int, whole()] = 42

    def tools(self) -> dict[str, Path]:
        """The weights of detector and scorer, by these names, and what describes a detector of one file."""
        folder, weights = dino_files(self.detector)
        named = {"detector": weights or folder, "scorer": local_folder(self.scorer, any_kind=True)}
        if weights:
            named["detector_config"] = folder
        return {name: MINI_TOWER if path == Path("mini") else path for name, path in named.items()}


def dino_files(detector: str | Path) -> tuple[Path, Path | None]:
    """The folder that describes a GroundingDINO, and its original file; None where the folder has weights itself."""
    if Path(detector).suffix == ".pth":
        return Path(DINO), Path(detector)
    path = local_folder(detector, any_kind=True)
    lacks_weights = (path / "config.json").is_file() and not weight_files(path)
    return path, ORIGINAL_DINO if lacks_weights and ORIGINAL_DINO.is_file() else None


_RELEASED = {"exempt_words": RELEASED_EXEMPT, "always_words": RELEASED_ALWAYS, "variant": "released"}
PRESETS = {
    "halc_clean": HalcSettings(),
    "halc_repo": HalcSettings(base=DolaSettings("even"), skip_rate=0.5, **_RELEASED),
}
