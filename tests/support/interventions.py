"""Interventions of every kind and their combinations, on heads of the tiny models."""

from llava_hh.attention.interventions import BoostImageScores, DeactivateText, ScaleAttention, ZeroHeads
from llava_hh.heads import Head

HEADS = [Head(0, 1), Head(1, 0), Head(1, 3), Head(2, 2), Head(3, 0), Head(3, 1), Head(3, 3)]
INTERVENTIONS = {
    "zero": [ZeroHeads(HEADS)],
    "deactivate": [DeactivateText(HEADS, threshold=0.5)],
    "less text": [ScaleAttention(HEADS, alpha=0.4)],
    "no text": [ScaleAttention(HEADS, alpha=0.0)],
    "more image": [ScaleAttention(HEADS, alpha=2.5, span="image")],
    "a factor per row": [
        ScaleAttention(HEADS, (0.4, 0.0, 2.0, 1.5)),
        ScaleAttention(HEADS, (1.0, 2.0, 1.0, 3.0), "image"),
    ],
    "boost": [BoostImageScores(HEADS, 0.8), BoostImageScores(HEADS[2:4], 1.1)],
    "boost and deactivate": [BoostImageScores(HEADS, 0.5), DeactivateText(HEADS, 0.4)],
    # the canonical order is scale, boost, deactivate, zero; the loops boost first, then edit in the order given
    "all": [
        BoostImageScores(HEADS[3:6], 0.6),
        ScaleAttention(HEADS[:4], 1.5, "image"),
        ScaleAttention(HEADS[2:5], 0.7),
        DeactivateText(HEADS[1:], 0.4),
        ZeroHeads(HEADS[-1:]),
    ],
}
