"""Contrastive influence: which heads or modules push hallucinated words more than true ones."""

import numpy as np

from llava_hh.heads import Head

READ_OUTS = ("probability", "absolute", "log")


def influence(clean_log_probs: np.ndarray, ablated_log_probs: np.ndarray, read_out: str = "probability") -> np.ndarray:
    """How much an ablation lowers a target's probability: (target,) and (target, ...) -> (target, ...).

    Args:
        clean_log_probs, ablated_log_probs: log-probabilities of the targets in nats, without and with the ablation.
        read_out: `probability` is p(clean) - p(ablated); `absolute` its absolute value; `log` is
            log p(clean) - log p(ablated), in nats.
    Raises:
        ValueError: an unknown read-out, or arrays of different numbers of targets.
    Source: paper, counterfactual influence of a module; its read-out is the probability.
    """
    if read_out not in READ_OUTS:
        raise ValueError(f"read-out {read_out!r} is not known; expected one of: {', '.join(READ_OUTS)}")
    if clean_log_probs.shape != ablated_log_probs.shape[:1]:
        raise ValueError(f"clean {clean_log_probs.shape} does not fit ablated {ablated_log_probs.shape}: other targets")
    clean = clean_log_probs.reshape(-1, *[1] * (ablated_log_probs.ndim - 1))
    if read_out == "log":
        return clean - ablated_log_probs
    drop = np.exp(clean) - np.exp(ablated_log_probs)
    return np.abs(drop) if read_out == "absolute" else drop


def contrastive_influence(influences: np.ndarray, hallucinated: np.ndarray) -> np.ndarray:
    """Mean influence on hallucinated tokens minus mean influence on the others, (target, ...) -> (...), float64.

    Args:
        influences: (target, layer, head) of heads, (target, layer) of whole modules.
        hallucinated: (target,) bool.
    Raises:
        ValueError: one of the two kinds of tokens is missing.
    Source: paper, contrastive influence (its ranking of heads).
    """
    check_kinds(influences, hallucinated)
    return influences[hallucinated].mean(0, dtype=np.float64) - influences[~hallucinated].mean(0, dtype=np.float64)


def check_kinds(influences: np.ndarray, hallucinated: np.ndarray) -> None:
    """Raise ValueError unless `hallucinated` marks each target of `influences` and there are targets of both kinds."""
    if hallucinated.shape != influences.shape[:1] or hallucinated.dtype != bool:
        raise ValueError(f"{len(influences)} targets need as many marks `hallucinated`, true or false")
    for kind, chosen in (("hallucinated", hallucinated), ("non-hallucinated", ~hallucinated)):
        if not chosen.any():
            raise ValueError(f"no {kind} object token among {len(hallucinated)} targets: caption more images")


def rank_heads(contrast: np.ndarray, k: int) -> tuple[list[Head], list[Head]]:
    """The k heads of largest contrast and the k of smallest, best first; ties go to the lower layer and head.

    Args:
        contrast: (layer, head).
    """
    orders = (np.argsort(signed, axis=None, kind="stable")[:k].tolist() for signed in (-contrast, contrast))
    best, worst = ([Head(*divmod(index, contrast.shape[1])) for index in order] for order in orders)
    return best, worst
