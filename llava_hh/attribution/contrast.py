"""Contrastive influence: which heads push hallucinated words more than true ones."""

import numpy as np

from llava_hh.heads import Head


def influence(clean_probs: np.ndarray, ablated_probs: np.ndarray) -> np.ndarray:
    """p(clean) - p(ablated): (target,) and (target, layer, head) -> (target, layer, head).

    Source: paper, counterfactual influence with zero ablation, probability read-out.
    """
    return clean_probs[:, None, None] - ablated_probs


def contrastive_influence(influences: np.ndarray, hallucinated: np.ndarray) -> np.ndarray:
    """Mean influence on hallucinated tokens minus mean influence on the others, (layer, head).

    Args:
        influences: (target, layer, head) probabilities.
        hallucinated: (target,) bool.
    Raises:
        ValueError: one of the two kinds of tokens is missing.
    Source: paper, contrastive influence (its ranking of heads).
    """
    for kind, chosen in (("hallucinated", hallucinated), ("non-hallucinated", ~hallucinated)):
        if not chosen.any():
            raise ValueError(f"no {kind} object token among {len(hallucinated)} targets: caption more images")
    return influences[hallucinated].mean(0, dtype=np.float64) - influences[~hallucinated].mean(0, dtype=np.float64)


def rank_heads(contrast: np.ndarray, k: int) -> tuple[list[Head], list[Head]]:
    """The k heads of largest contrast and the k of smallest, best first; ties go to the lower layer and head.

    Args:
        contrast: (layer, head).
    """
    order = np.argsort(-contrast, axis=None, kind="stable")
    backward = np.argsort(contrast, axis=None, kind="stable")
    n_heads = contrast.shape[1]

    def heads(flat: np.ndarray) -> list[Head]:
        return [Head(int(place) // n_heads, int(place) % n_heads) for place in flat[:k]]

    return heads(order), heads(backward)
