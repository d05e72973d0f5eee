"""EAH and VAR a second time, by loops over the maps of one layer; and the sinks, by loops over what enters it."""

import math

from torch import Tensor

from llava_hh.attention.sinks import RecycleSinks, ShareDensestMap


def share(
    each: ShareDensestMap, heads: list[int], weights: Tensor, image: list[int], first: int, start: int, row: int
) -> int | None:
    """Give the heads of one batch row the densest map; returns the head that gives it.

    Args:
        first: the row's first position that is no padding; start: that of its answer.
    """
    counts = []
    for head in heads:
        n_sinks = 0
        for key in image:
            later = [weights[row, head, query, key].item() for query in range(key + 1, start)]
            mean = sum(later) / (start - key)
            n_sinks += mean > each.threshold * 647 / (start - first)
        counts.append(n_sinks)
    winner = max(range(len(heads)), key=lambda index: (counts[index], -index))
    if winner == 0:
        return None
    given = weights[row, heads[winner]].clone()
    for head in heads:
        weights[row, head, first:start] = given[first:start]
    return heads[winner]


def sinks_of(each: RecycleSinks, hidden: Tensor, first: int, start: int) -> list[int]:
    """The positions of one batch row's prompt whose values stand out. `hidden` is (position, d_model)."""
    found = []
    for position in range(first, start):
        values = hidden[position].tolist()
        size = math.sqrt(sum(value * value for value in values) / len(values) + 1e-6)
        looked = each.dimensions or range(len(values))
        if max(abs(values[d]) for d in looked) / size > each.tau * math.sqrt(len(values) / 4096):
            found.append(position)
    return found


def recycle(each: RecycleSinks, weights: Tensor, image: list[int], sinks: list[int]) -> bool:
    """Move weight within one row of the map, (key,); whether it was moved."""
    others = [key for key in image if key not in sinks]
    mass, wasted = (sum(weights[key].item() for key in keys) for keys in (image, set(image) & {*sinks}))
    freed = (1 - each.kept) * sum(weights[key].item() for key in sinks)
    rest = sum(weights[key].item() for key in others)
    if mass < each.least_mass or wasted > each.most_sunk * mass or not freed or not rest:
        return False
    for key in sinks:
        weights[key] *= each.kept
    for key in others:
        weights[key] += freed * weights[key] / rest
    return True
