"""CHAIR in detail: by category, by what is really in the image, and by place in the caption.

All functions take the entries that `llava_hh.metrics.chair.chair.score_caption` made, one caption an image. "Named" and
"hallucinated" count captions, not mentions, where it is said so: captions of different images are independent, repeats
within one are not.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest, hypergeom

from llava_hh.metrics.chair.words import split_sentences
from llava_hh.metrics.statistics import RESAMPLES, holm, image_weights

N_PARTS = 5  # equal parts of a caption's items
N_PLACES = 8  # mentions and sentences that are counted apart; what comes later goes into the last
POSITIONS = ("part", "mention", "sentence")


def wilson(part: int, whole: int) -> list[float] | None:
    """The 95% Wilson interval of a share, as fractions; None where `whole` is 0."""
    return [round(float(end), 5) for end in binomtest(part, whole).proportion_ci(method="wilson")] if whole else None


def by_category(sentences: Sequence[Mapping[str, Any]], categories: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Counts of every category, also of those that never occur.

    Returns: of each, `mentions` and `hallucinated_mentions` as CHAIR_i counts them; then in captions: `named`,
        `hallucinated` (of the named) and `rate` (their ratio); `there` (images that have it), `missed` (of these,
        captions that don't name it) and `missed_rate`; and the 95% Wilson `interval` of both rates. Fractions; None
        where there is nothing to divide by.
    """
    table = {}
    for category in categories:
        own = [[m for m in entry["mentions"] if m["node"] == category] for entry in sentences]
        there = [category in entry["mscoco_gt_words"] for entry in sentences]
        named = sum(map(bool, own))
        wrong = sum(bool(found) and not real for found, real in zip(own, there, strict=True))
        missed = sum(real and not found for found, real in zip(own, there, strict=True))
        table[category] = {
            "mentions": sum(map(len, own)),
            "hallucinated_mentions": sum(mention["hallucinated"] for found in own for mention in found),
            "named": named,
            "hallucinated": wrong,
            "rate": _share(wrong, named),
            "there": sum(there),
            "missed": missed,
            "missed_rate": _share(missed, sum(there)),
            "interval": {"rate": wilson(wrong, named), "missed_rate": wilson(missed, sum(there))},
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
    real = [set(entry["mscoco_gt_words"]) for entry in sentences]
    wrong = [{node for _, node in entry["mscoco_hallucinated_words"]} for entry in sentences]
    pairs = []
    for h in sorted(set().union(*wrong)):
        without = [place for place, objects in enumerate(real) if h not in objects]
        chosen = [place for place in without if h in wrong[place]]
        for o in sorted(set().union(*(real[place] for place in without))):
            n, n_base = (sum(o in real[place] for place in places) for places in (chosen, without))
            pairs.append(
                {
                    "hallucinated": h,
                    "there": o,
                    "n": n,
                    "n_hallucinated": len(chosen),
                    "share": n / len(chosen),
                    "base": n_base / len(without),
                    "lift": n * len(without) / (len(chosen) * n_base),
                    "p": float(hypergeom.sf(n - 1, len(without), n_base, len(chosen))),
                }
            )
    for pair, corrected in zip(pairs, holm([min(1.0, pair["p"]) for pair in pairs]), strict=True):
        pair["p_holm"] = float(corrected)
    return sorted((pair for pair in pairs if pair["n"]), key=lambda pair: (-pair["n"], -pair["lift"]))


def mention_places(entry: Mapping[str, Any]) -> list[dict[str, int]]:
    """Where each mention of a caption stands, in the order of the text, and whether it is `hallucinated` (0 or 1).

    Returns: places from 0. `part`: in which of N_PARTS equal parts of the caption's items (words and punctuation
        marks); `mention`: how many objects were mentioned before; `sentence`: how many sentences were finished before.
        The last two are at most N_PLACES - 1.
    """
    caption = "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in entry["caption"])
    ends = [end for _, end in split_sentences(caption)]
    indices = sorted([*entry["hallucination_idxs"], *entry["non_hallucination_idxs"]])
    return [
        {
            "part": index * N_PARTS // len(entry["words"]),
            "mention": min(number, N_PLACES - 1),
            "sentence": min(sum(end <= mention["start"] for end in ends), N_PLACES - 1),
            "hallucinated": int(mention["hallucinated"]),
        }
        for number, (mention, index) in enumerate(zip(entry["mentions"], indices, strict=True))
    ]


def by_position(sentences: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, dict[str, Any]]:
    """Share of the mentions that are hallucinated, by the places of `mention_places`.

    Returns: {"part", "mention", "sentence": {"places": [...], "later_minus_earlier": {...}}}. A place has `mentions`,
        `hallucinated`, `share` and the 95% bootstrap `interval` over images, None where it has no mention.
        `later_minus_earlier`: the mean place of hallucinated mentions minus that of the true ones, in places from 0 (a
        part is 1 / N_PARTS of the caption), with its interval, so that all mentions bear on it; above 0 where
        hallucination grows along the captions. None without mentions of both kinds.
    """
    places = [mention_places(entry) for entry in sentences]
    sizes = {"part": N_PARTS, "mention": N_PLACES, "sentence": N_PLACES}
    result = {}
    for kind in POSITIONS:
        counts = np.zeros((len(sentences), 2, sizes[kind]))  # image (true, hallucinated) place
        for image, own in enumerate(places):
            for mention in own:
                counts[image, mention["hallucinated"], mention[kind]] += 1
        flat = counts.reshape(len(counts), -1)
        resampled = np.concatenate([w @ flat for w in image_weights(len(flat), RESAMPLES, seed)])
        result[kind] = _shares(counts.sum(0), resampled.reshape(-1, *counts.shape[1:]))
    return result


def _shares(totals: np.ndarray, resampled: np.ndarray) -> dict[str, Any]:
    """(kind, place) and (resample, kind, place) -> what `by_position` says of one sort of places."""
    places = []
    for place in range(totals.shape[1]):
        right, wrong = totals[:, place]
        of_place = resampled[:, :, place]
        some = of_place[of_place.sum(1) > 0]
        places.append(
            {
                "mentions": int(right + wrong),
                "hallucinated": int(wrong),
                "share": _share(wrong, right + wrong),
                "interval": {"share": _percentiles(some[:, 1] / some.sum(1)) if len(some) else None},
            }
        )
    gap = None
    if totals.sum(1).all():
        both = resampled[resampled.sum(2).all(1)]
        gap = {"mean": round(float(_later(totals)), 5), "interval": {"mean": _percentiles(_later(both))}}
    return {"places": places, "later_minus_earlier": gap}


def _later(counts: np.ndarray) -> np.ndarray:
    """Mean place of hallucinated mentions minus that of true ones, (..., kind, place) -> (...)."""
    means = counts @ np.arange(counts.shape[-1]) / counts.sum(-1)
    return means[..., 1] - means[..., 0]


def _percentiles(values: np.ndarray) -> list[float]:
    return [round(float(end), 5) for end in np.percentile(values, (2.5, 97.5))]


def _share(part: float, whole: float) -> float | None:
    return round(float(part / whole), 5) if whole else None
