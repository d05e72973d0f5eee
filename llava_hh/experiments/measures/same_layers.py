"""The control of figures 4 and 5: hallucination heads against other heads of their own layers.

Hallucination heads lie in deep layers. Against heads of all layers, a difference of layers looks like one of heads.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from llava_hh.heads import Head, by_layer
from llava_hh.metrics.statistics import RESAMPLES, mean_with_interval

Pair = tuple[int, int]  # layer, head


def rest_of_layers(shape: Pair, hal_heads: Iterable[Pair], non_hal_heads: Iterable[Pair]) -> list[Head]:
    """The heads in neither list, of the layers that have a hallucination head; of a model of (layer, head) `shape`."""
    layers, listed = set(by_layer(hal_heads)), {tuple(head) for head in (*hal_heads, *non_hal_heads)}
    return [Head(*head) for head in np.ndindex(shape) if head[0] in layers and head not in listed]


def compared_heads(hal_heads: Iterable[Pair], rest: Iterable[Pair]) -> list[Pair]:
    """The hallucination heads whose layer has a head in `rest`."""
    layers = set(by_layer(rest))
    return [head for head in hal_heads if head[0] in layers]


def compare_in_layers(values: np.ndarray, hal_heads: Sequence[Pair], rest: Sequence[Pair]) -> dict:
    """Summaries of the control and of the hallucination heads minus it, on the same captions.

    The control of a hallucination head is the mean over `rest` in its layer; so a layer counts once for each of its
    hallucination heads. A hallucination head without `rest` in its layer is left out of both summaries.

    Args:
        values: (caption, layer, head).
        rest: what `rest_of_layers` returns.
    Returns: `same_layers` and `difference_same_layers`, as `summarise_captions` makes them; empty without `rest`.
    """
    if not rest:
        return {}
    compared, in_layer = compared_heads(hal_heads, rest), by_layer(rest)
    controls = np.mean([values[:, layer, in_layer[layer]].mean(1) for layer, _ in compared], axis=0)  # caption
    differences = values[:, *np.transpose(compared)].mean(1) - controls
    return {"same_layers": summarise_captions(controls), "difference_same_layers": summarise_captions(differences)}


def summarise_captions(values: np.ndarray) -> dict:
    """Mean over captions with its 95% bootstrap interval, {"mean", "interval": {"mean"}}, JSON-ready."""
    mean, interval = mean_with_interval(values, RESAMPLES)
    return {"mean": float(mean), "interval": {"mean": interval.tolist()}}
