"""CHAIR in detail: by category, by the true objects of the image, and by position in the caption.

All functions take the entries that `llava_hh.metrics.chair.chair.score_caption` made, one caption an image. Where the
text says so, "named" and "hallucinated" count captions, not mentions: captions of different images are independent,
repeats within one are not.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from scipy.stats import binomtest, hypergeom

from llava_hh.metrics.chair.words import split_sentences
from llava_hh.metrics.statistics import holm, interval_of, resampled, rounded

N_PARTS = 5  # equal parts of a caption's items
N_POSITIONS = 8  # mentions and sentences that are counted apart; later ones count as the last
SIZES = {"part": N_PARTS, "mention": N_POSITIONS, "sentence": N_POSITIONS}


def wilson(part: int, whole: int) -> list[float] | None:
    """The 95% Wilson interval of a share, as fractions; None where `whole` is 0."""
    return rounded(np.array(binomtest(part, whole).proportion_ci(method="wilson"))) if whole else None


def by_category(sentences: Sequence[Mapping[str, Any]], categories: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Counts of every category, also of those that never occur.

    Returns: of each, `mentions` and `hallucinated_mentions` as CHAIR_i counts them; then in captions: `named`,
        `hallucinated` (of the named) and `rate` (their ratio); `there` (images that have it), `missed` (of these,
        captions that don't name it) and `missed_rate`; and the 95% Wilson `interval` of both rates. Fractions; None
        where there is nothing to divide by.
    """
    table = {}
    for category in categories:
        mentions = [[m for m in entry["mentions"] if m["node"] == category] for entry in sentences]
        in_image = [category in entry["mscoco_gt_words"] for entry in sentences]
        pairs = Counter(zip(map(bool, mentions), in_image, strict=True))  # (named, true) of a caption
        named, n_true = pairs[True, False] + pairs[True, True], pairs[True, True] + pairs[False, True]
        wrong, missed = pairs[True, False], pairs[False, True]
        table[category] = {
            "mentions": sum(map(len, mentions)),
            "hallucinated_mentions": sum(mention["hallucinated"] for mention in chain(*mentions)),
            **{"named": named, "hallucinated": wrong, "rate": _share(wrong, named)},
            **{"there": n_true, "missed": missed, "missed_rate": _share(missed, n_true)},
            "interval": {"rate": wilson(wrong, named), "missed_rate": wilson(missed, n_true)},
        }
    return table


def co_occurrence(sentences: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is really in the images in which an object is hallucinated, against the images that lack that object.

    With N images without the object h, of which h is hallucinated in `n_hallucinated`, and an object o that is in B of
    the N and in `n` of those with the hallucination:
    `share` = n / n_hallucinated, `base` = B / N, `lift` = share / base. A lift of 2: o is there twice as often as in
    all images where h could be hallucinated. `p`: one-sided Fisher test, the chance of at least n; `p_holm` is
    corrected over all pairs (h, o) with n_hallucinated and B above 0, those with n = 0 among them.

    Returns: pairs with n above 0, by n, then by lift, from above; `hallucinated` is h and `there` is o.
    """
    true = [set(entry["mscoco_gt_words"]) for entry in sentences]
    wrong = [{node for _, node in entry["mscoco_hallucinated_words"]} for entry in sentences]
    pairs = []
    for h in sorted(set().union(*wrong)):
        without = [image for image, objects in enumerate(true) if h not in objects]
        chosen = [image for image in without if h in wrong[image]]
        for o in sorted(set().union(*(true[image] for image in without))):
            n, n_base = (sum(o in true[image] for image in images) for images in (chosen, without))
            pair = {"hallucinated": h, "there": o, "n": n, "n_hallucinated": len(chosen), "share": n / len(chosen)}
            pair |= {"base": n_base / len(without), "lift": n * len(without) / (len(chosen) * n_base)}
            pairs.append(pair | {"p": float(hypergeom.sf(n - 1, len(without), n_base, len(chosen)))})
    for pair, corrected in zip(pairs, holm([min(1.0, pair["p"]) for pair in pairs]).tolist(), strict=True):
        pair["p_holm"] = corrected
    return sorted((pair for pair in pairs if pair["n"]), key=lambda pair: (-pair["n"], -pair["lift"]))


def mention_positions(entry: Mapping[str, Any]) -> list[dict[str, int]]:
    """The position of each mention in its caption, in the order of the text, and whether it is `hallucinated` (0 or 1).

    Returns: positions from 0. `part`: in which of N_PARTS equal parts of the caption's items (words and punctuation
        marks); `mention`: how many objects were mentioned before; `sentence`: how many sentences were finished before.
        The last two are at most N_POSITIONS - 1.
    """
    caption = "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in entry["caption"])
    ends = [end for _, end in split_sentences(caption)]
    indices = sorted([*entry["hallucination_idxs"], *entry["non_hallucination_idxs"]])
    positions = []
    for number, (mention, index) in enumerate(zip(entry["mentions"], indices, strict=True)):
        part, finished = index * N_PARTS // len(entry["words"]), sum(end <= mention["start"] for end in ends)
        position = {"mention": min(number, N_POSITIONS - 1), "sentence": min(finished, N_POSITIONS - 1)}
        positions.append({"part": part, **position, "hallucinated": int(mention["hallucinated"])})
    return positions


def by_position(sentences: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, dict[str, Any]]:
    """Share of the mentions that are hallucinated, by the positions of `mention_positions`.

    Returns: {"part", "mention", "sentence": {"places": [...], "later_minus_earlier": {...}}}. An entry of `places` has
        `mentions`, `hallucinated`, `share` and the 95% bootstrap `interval` over images, None without a mention.
        `later_minus_earlier`: the mean position of hallucinated mentions minus that of the true ones, from 0 (a part is
        1 / N_PARTS of the caption), with its interval. All mentions bear on it. It is above 0 where hallucination grows
        along the captions, and None without mentions of both kinds.
    """
    mentions = [(image, mention) for image, entry in enumerate(sentences) for mention in mention_positions(entry)]
    result = {}
    for kind, n_positions in SIZES.items():
        counts = np.zeros((len(sentences), 2, n_positions))  # image (true, hallucinated) position
        for image, mention in mentions:
            counts[image, mention["hallucinated"], mention[kind]] += 1
        result[kind] = _shares(counts.sum(0), resampled(lambda drawn: drawn, counts, seed))
    return result


def _shares(totals: np.ndarray, drawn: np.ndarray) -> dict[str, Any]:
    """(kind, position) and (resample, kind, position) -> the entry of `by_position` for one sort of positions."""
    rows = []
    for (right, wrong), of_position in zip(totals.T.tolist(), np.moveaxis(drawn, 2, 0), strict=True):
        some = of_position[of_position.sum(1) > 0]
        interval = {"share": interval_of(some[:, 1] / some.sum(1)) if len(some) else None}
        counts = {"mentions": int(right + wrong), "hallucinated": int(wrong)}
        rows.append({**counts, "share": _share(wrong, right + wrong), "interval": interval})
    gap = None
    if totals.sum(1).all():
        both = drawn[drawn.sum(2).all(1)]
        gap = {"mean": round(float(_later(totals)), 5), "interval": {"mean": interval_of(_later(both))}}
    return {"places": rows, "later_minus_earlier": gap}


def _later(counts: np.ndarray) -> np.ndarray:
    """Mean position of hallucinated mentions minus that of true ones, (..., kind, position) -> (...)."""
    means = counts @ np.arange(counts.shape[-1]) / counts.sum(-1)
    return means[..., 1] - means[..., 0]


def _share(part: float, whole: float) -> float | None:
    return round(float(part / whole), 5) if whole else None
