"""How far two head lists agree: heads in common, and the rank correlation of their scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import hypergeom, rankdata

from llava_hh.attribution.summary import OVERLAP_AT
from llava_hh.files.files import read_json
from llava_hh.heads import Head, load_heads

RESAMPLES = 2000


@dataclass(frozen=True)
class Ranking:
    """A head list, best first, and what its file says beside it.

    scores: (layer, head) contrastive influence, NaN where it was not measured; None where there is none, as for the
        published lists.
    size: layers and heads of the model, if known.
    within: by k, the share of the top k that two halves of the list's images have in common; empty if not computed.
    """

    heads: list[Head]
    scores: np.ndarray | None
    size: tuple[int, int] | None
    within: dict[int, float]


def load_ranking(path: Path) -> Ranking:
    """Read an attribution_result.json, or a published list.

    Raises:
        ValueError: no head list, or scores that are no matrix of numbers; one line that names the file.
        OSError: the file cannot be read.
    """
    heads, content = load_heads(path), read_json(path)
    scores = None
    if "contrastive_influence" in content:
        try:
            scores = np.array(content["contrastive_influence"], dtype=float)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: 'contrastive_influence' must be layers of heads' scores ({error})") from None
        if scores.ndim != 2:
            raise ValueError(f"{path}: 'contrastive_influence' must be layers of heads' scores, not {scores.ndim}-d")
    size = (content["n_layers"], content["n_heads"]) if {"n_layers", "n_heads"} <= content.keys() else None
    halves = content.get("stability", {}).get("half_overlap", {})
    within = {int(k): overlap["mean"] for k, overlap in halves.items()}
    return Ranking(heads, scores, size if scores is None else scores.shape, within)


def compare_rankings(first: Ranking, second: Ranking, seed: int = 0) -> dict[str, Any]:
    """Overlap and rank correlation of two lists.

    Returns: `overlap`: by k, as far as both lists go, `n` heads in common, their `share` of k, `heads` (in the order of
        the first list), and, where the model's size is known, what two random lists of k heads have in common: `chance`
        as a share and `p`, the probability of at least n. `rank_correlation`: the result of `correlate_ranks`, or None
        without both scores.
    Raises:
        ValueError: the lists are of models of different sizes.
    """
    sizes = {ranking.size for ranking in (first, second) if ranking.size}
    if len(sizes) > 1:
        shapes = " and ".join(f"{layers} layers of {heads} heads" for layers, heads in sorted(sizes))
        raise ValueError(f"the lists are of models of another size: {shapes}; their heads are not comparable")
    n_heads = int(np.prod(next(iter(sizes)))) if sizes else None
    overlap = {}
    for k in OVERLAP_AT:
        if k <= min(len(first.heads), len(second.heads)):
            common = [head for head in first.heads[:k] if head in second.heads[:k]]
            overlap[k] = {"n": len(common), "share": len(common) / k, "heads": common}
            if n_heads:
                overlap[k] |= {"chance": k / n_heads, "p": float(hypergeom.sf(len(common) - 1, n_heads, k, k))}
    known = first.scores is not None and second.scores is not None
    correlation = correlate_ranks(first.scores, second.scores, seed) if known else None
    return {"overlap": overlap, "rank_correlation": correlation}


def correlate_ranks(first: np.ndarray, second: np.ndarray, seed: int = 0) -> dict[str, Any] | None:
    """Spearman's correlation of two scores (layer, head) over the heads that both have.

    Returns: `spearman`, `n_heads` and the 95% percentile `interval` of RESAMPLES bootstrap samples of the heads. The
        interval says how far the value depends on a few heads, not what other images would give. Resamples in which one
        score is the same everywhere are dropped. None with fewer than three heads, or scores that don't vary.
    """
    known = ~np.isnan(first) & ~np.isnan(second)
    pairs = np.stack([first[known], second[known]])  # score head
    n = pairs.shape[1]
    if n < 3 or (pairs == pairs[:, :1]).all(1).any():
        return None
    rng = np.random.default_rng(seed)
    drawn = np.stack([_spearman(pairs[:, rng.integers(0, n, n)]) for _ in range(RESAMPLES)])
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return {"spearman": float(_spearman(pairs)), "n_heads": n, "interval": {"spearman": [float(low), float(high)]}}


def _spearman(pairs: np.ndarray) -> float:
    """Correlation of ranks, ties sharing their mean rank, (score, head); NaN for a score that doesn't vary."""
    ranks = rankdata(pairs, axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    lengths = np.sqrt((ranks**2).sum(1))
    return float(ranks[0] @ ranks[1] / lengths.prod()) if lengths.all() else float("nan")


def in_how_many(lists: Sequence[Sequence[Head]], k: int) -> dict[Head, list[int]]:
    """Indices of the lists that have a head among their first k; most shared first, then by the best rank."""
    ranks: dict[Head, dict[int, int]] = {}  # by the index of the list
    for index, heads in enumerate(lists):
        for rank, head in enumerate(heads[:k]):
            ranks.setdefault(head, {})[index] = rank
    order = sorted(ranks, key=lambda head: (-len(ranks[head]), min(ranks[head].values()), head))
    return {head: list(ranks[head]) for head in order}
