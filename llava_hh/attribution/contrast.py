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


def contrastive_influence(
    influences: np.ndarray, hallucinated: np.ndarray, objects: np.ndarray | None = None
) -> np.ndarray:
    """Mean influence on hallucinated tokens minus mean influence on the others, (target, ...) -> (...), float64.

    Args:
        influences: (target, layer, head) of heads, (target, layer) of whole modules.
        hallucinated: (target,) bool.
        objects: as in `means_of_kinds`.
    Raises:
        ValueError: one of the two kinds of tokens is missing.
    Source: paper, contrastive influence (its ranking of heads).
    """
    of_hallucinated, of_others = means_of_kinds(influences, hallucinated, objects)
    return of_hallucinated - of_others


def means_of_kinds(
    values: np.ndarray, hallucinated: np.ndarray, objects: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Means over hallucinated targets and over the others, (target, ...) -> (...) each, float64.

    Args:
        hallucinated: (target,) bool.
        objects: (target,) the object that each target names: then both are means over the same objects, those that
            are hallucinated somewhere and true somewhere else, each weighted by how often it is hallucinated. What a
            head does for the name of an object itself is then in both. None: all targets.
    Raises:
        ValueError: one of the two kinds of tokens is missing, or no object has both.
    """
    check_kinds(values, hallucinated)
    if objects is None:
        return values[hallucinated].mean(0, dtype=np.float64), values[~hallucinated].mean(0, dtype=np.float64)
    sums, n_matched = np.zeros((2, *values.shape[1:])), 0
    for name in matched_objects(hallucinated, objects):
        own = objects == name
        count = int((own & hallucinated).sum())
        for kind, chosen in enumerate((own & hallucinated, own & ~hallucinated)):
            sums[kind] += count * values[chosen].mean(0, dtype=np.float64)
        n_matched += count
    return sums[0] / n_matched, sums[1] / n_matched


def matched_objects(hallucinated: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """The objects with targets of both kinds, sorted.

    Raises:
        ValueError: there is none.
    """
    matched = np.intersect1d(objects[hallucinated], objects[~hallucinated])
    if not len(matched):
        raise ValueError("--match object: no object is hallucinated in one place and true in another")
    return matched


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
