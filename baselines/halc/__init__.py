"""HALC: nouns are checked against what a detector finds, and chosen anew from crops of the image."""

from baselines.halc.decode import decode
from baselines.halc.settings import PRESETS, HalcSettings

__all__ = ["PRESETS", "HalcSettings", "decode"]
