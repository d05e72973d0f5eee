"""HALC: nouns are checked against what a detector finds, and chosen anew from crops of the image."""

from llava_hh.baselines.halc.decode import decode
from llava_hh.baselines.halc.settings import PRESETS, HalcSettings

__all__ = ["PRESETS", "HalcSettings", "decode"]
