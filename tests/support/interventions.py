"""Interventions of every kind and their combinations, on heads of the tiny models."""

from llava_hh.attention.interventions import BoostImageScores, DeactivateText, ScaleAttention, ScaleHeads, ZeroHeads
from llava_hh.attention.layer_edits import AddConsensus, ScaleScores, SuppressBlindHeads
from llava_hh.attention.sinks import RecycleSinks, ShareDensestMap
from llava_hh.heads import Head

HEADS = [Head(0, 1), Head(1, 0), Head(1, 3), Head(2, 2), Head(3, 0), Head(3, 1), Head(3, 3)]
LAYERS = [[Head(layer, head) for head in range(4)] for layer in range(4)]
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
    "consensus": [AddConsensus(LAYERS[1] + LAYERS[2], 0.9)],
    "consensus of some": [AddConsensus(HEADS, 0.7), BoostImageScores(HEADS[2:4], 0.4)],
    "scores scaled": [ScaleScores(LAYERS[1] + LAYERS[3], 1.6, 0.7)],
    "scores moved": [ScaleScores(LAYERS[2], 1.5, 0.6, signed=False), AddConsensus(LAYERS[2] + LAYERS[0], 0.5)],
    "blind heads": [SuppressBlindHeads(LAYERS[0] + LAYERS[2], 0.5, 0.1)],
    "blind heads by attention": [SuppressBlindHeads(LAYERS[1] + LAYERS[3], 0.75, 0.0, "attention")],
    "scores, blind heads and others": [
        BoostImageScores(HEADS[:3], 0.5),
        ScaleScores(LAYERS[1], 1.4, 0.8),
        DeactivateText(HEADS[1:4], 0.4),
        SuppressBlindHeads(LAYERS[1], 0.5, 0.3),
    ],
    "heads scaled": [ScaleHeads(HEADS, (0.5, 2.0, 1.0, 0.0, 3.0, 0.2, 1.5))],
    "densest map": [ShareDensestMap(LAYERS[1] + LAYERS[2], 0.002)],
    "densest map of few": [ShareDensestMap(LAYERS[0] + LAYERS[2], 0.0022)],
    "sinks recycled": [RecycleSinks(LAYERS[1] + LAYERS[2] + HEADS[-2:], 0.3, tau=27, most_sunk=0.6, least_mass=0.1)],
    "sinks of two dimensions": [
        RecycleSinks(LAYERS[1] + LAYERS[2], 0.1, tau=8, most_sunk=0.8, least_mass=0.1, dimensions=(3, 17))
    ],
    "patterns and outputs": [
        BoostImageScores(HEADS[:3], 0.5),
        RecycleSinks(LAYERS[1], 0.2, tau=27, most_sunk=0.9, least_mass=0.0),
        ShareDensestMap(LAYERS[2], 0.002),
        DeactivateText(HEADS[1:4], 0.4),
        ScaleHeads(HEADS[2:], (2.0, 0.5, 1.5, 1.5, 0.1)),
    ],
    # the canonical order is scale, boost, deactivate, zero; the loops boost first, then edit in the order given
    "all": [
        BoostImageScores(HEADS[3:6], 0.6),
        ScaleAttention(HEADS[:4], 1.5, "image"),
        ScaleAttention(HEADS[2:5], 0.7),
        DeactivateText(HEADS[1:], 0.4),
        ZeroHeads(HEADS[-1:]),
    ],
}
