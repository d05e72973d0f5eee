"""How far contrastive influence depends on which images were captioned: intervals of scores, overlap of head lists.

Words of one image are alike, so resamples draw images: all targets of an image go together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llava_hh.attribution.contrast import check_kinds, matched_objects, rank_heads
from llava_hh.metrics.statistics import PIECE, image_weights


@dataclass(frozen=True)
class ImageSums:
    """Per image, the summed influence and the number of its targets of each kind.

    sums: (kind, image, ...) float64; counts: (kind, image); kind 0 is hallucinated, 1 the others.
    """

    sums: np.ndarray
    counts: np.ndarray

    def contrasts(self, weights: np.ndarray) -> np.ndarray:
        """Contrastive influence when image i counts weights[:, i] times, (sample, image) -> (kept sample, ...).

        Samples without hallucinated or without other targets are left out.
        """
        n_targets = weights @ self.counts.T  # sample kind
        kept = (n_targets > 0).all(1)
        hallucinated, others = (
            weights[kept] @ sums.reshape(len(sums), -1) / n_targets[kept, kind, None]
            for kind, sums in enumerate(self.sums)
        )
        return (hallucinated - others).reshape(-1, *self.sums.shape[2:])

    def columns(self, first: int, last: int) -> "ImageSums":
        """Those of heads `first` to before `last`; `sums` has to be (kind, image, head)."""
        return ImageSums(self.sums[:, :, first:last], self.counts)

    def pulls(self) -> np.ndarray:
        """How far each image pulls each contrastive influence from what the others say, (image, head), to first order.

        `sums` has to be (kind, image, head).
        """
        totals = self.counts.sum(1)
        means = self.sums.sum(1) / totals[:, None]  # kind head
        pulls = (self.sums - self.counts[:, :, None] * means[:, None]) / totals[:, None, None]
        return pulls[0] - pulls[1]


@dataclass(frozen=True)
class MatchedSums:
    """The same for the objects with targets of both kinds, each apart, as `means_of_kinds` weights them.

    objects: of each, the indices of its images, and its ImageSums there.
    """

    objects: list[tuple[np.ndarray, ImageSums]]

    def contrasts(self, weights: np.ndarray) -> np.ndarray:
        """As those of ImageSums, (sample, image) -> (kept sample, head), of the objects with both kinds in a sample."""
        added, total = np.zeros((len(weights), 1)), np.zeros((len(weights), 1))
        for images, own in self.objects:
            drawn = weights[:, images]
            n_targets = drawn @ own.counts.T  # sample kind
            count = np.where((n_targets > 0).all(1), n_targets[:, 0], 0)[:, None]
            means = [drawn @ sums / n_targets[:, kind, None].clip(1) for kind, sums in enumerate(own.sums)]
            added, total = added + count * (means[0] - means[1]), total + count
        kept = total[:, 0] > 0
        return added[kept] / total[kept]

    def columns(self, first: int, last: int) -> "MatchedSums":
        """Those of heads `first` to before `last`."""
        return MatchedSums([(images, own.columns(first, last)) for images, own in self.objects])


def sums_for(
    influences: np.ndarray, hallucinated: np.ndarray, image_ids: np.ndarray, objects: np.ndarray | None
) -> tuple[ImageSums | MatchedSums, int]:
    """Sums of influences (target, head) and the number of images; by object unless `objects` is None."""
    whole = sum_by_image(influences, hallucinated, image_ids)
    images = np.unique(image_ids)
    if objects is None:
        return whole, len(images)
    matched = []
    for name in matched_objects(hallucinated, objects):
        own = objects == name
        theirs = np.searchsorted(images, np.unique(image_ids[own]))
        matched.append((theirs, sum_by_image(influences[own], hallucinated[own], image_ids[own])))
    return MatchedSums(matched), len(images)


def sum_by_image(influences: np.ndarray, hallucinated: np.ndarray, image_ids: np.ndarray) -> ImageSums:
    """Sum up influences (target, ...) over the targets of each image and kind.

    Raises:
        ValueError: one of the two kinds of tokens is missing, or the lengths differ.
    """
    check_kinds(influences, hallucinated)
    if np.shape(image_ids) != hallucinated.shape:
        raise ValueError(f"{len(influences)} targets need as many image ids, not {np.size(image_ids)}")
    images, image_of = np.unique(image_ids, return_inverse=True)
    sums, counts = np.zeros((2, len(images), *influences.shape[1:])), np.zeros((2, len(images)))
    for kind, chosen in enumerate((hallucinated, ~hallucinated)):
        order = np.flatnonzero(chosen)[np.argsort(image_of[chosen], kind="stable")]  # image by image
        present, starts, n_targets = np.unique(image_of[order], return_index=True, return_counts=True)
        sums[kind, present] = np.add.reduceat(influences[order].astype(np.float64), starts, axis=0)
        counts[kind, present] = n_targets
    return ImageSums(sums, counts)


def bootstrap_interval(
    influences: np.ndarray,
    hallucinated: np.ndarray,
    image_ids: np.ndarray,
    objects: np.ndarray | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """95% percentile interval of each contrastive influence over images, (target, ...) -> low (...) and high (...).

    Resamples without a hallucinated or without a true word are dropped. With a single image there is nothing to
    resample: low and high are both the score.

    Args:
        hallucinated: (target,) bool; image_ids: (target,) the image of each target; objects: of `means_of_kinds`.
    Raises:
        ValueError: one of the two kinds of tokens is missing.
    """
    shape, flat = influences.shape[1:], influences.reshape(len(influences), -1)
    whole, n_images = sums_for(flat, hallucinated, image_ids, objects)
    width = max(1, PIECE // resamples)  # heads at once: their percentiles need all resamples in memory
    ends = []
    for first in range(0, flat.shape[1], width):
        part = whole.columns(first, first + width)
        drawn = np.concatenate([part.contrasts(weights) for weights in image_weights(n_images, resamples, seed)])
        ends.append(np.percentile(drawn, (2.5, 97.5), axis=0))
    low, high = np.concatenate(ends, axis=1)
    return low.reshape(shape), high.reshape(shape)


def half_contrasts(
    influences: np.ndarray,
    hallucinated: np.ndarray,
    image_ids: np.ndarray,
    objects: np.ndarray | None = None,
    splits: int = 200,
    seed: int = 0,
) -> np.ndarray:
    """Contrastive influence in two random halves of the images, (target, head) -> (kept split, half, head).

    Splits with a half that lacks hallucinated or true words are dropped. A seed draws the same splits for all heads.
    """
    whole, n_images = sums_for(influences, hallucinated, image_ids, objects)
    rng = np.random.default_rng(seed)
    kept = [np.empty((0, 2, influences.shape[1]))]
    for _ in range(splits):
        in_first = np.zeros(n_images)
        in_first[rng.permutation(n_images)[: n_images // 2]] = 1
        halves = whole.contrasts(np.stack([in_first, 1 - in_first]))
        if len(halves) == 2:
            kept.append(halves[None])
    return np.concatenate(kept)


def overlap_of_halves(contrasts: np.ndarray, ks: Sequence[int]) -> dict[int, dict]:
    """Share of the top k heads that the halves have in common, as fractions.

    Each half has half the words, so a list from all images is more stable than this says. If no split was kept, as with
    a single image, the result is empty.

    Args:
        contrasts: (split, half, head), the result of `half_contrasts`.
        ks: lengths of the list, each from 1 to the number of heads.
    Returns:
        {k: {"mean", "interval": {"mean": [2.5% and 97.5% of the splits]}, "chance": of two random lists,
        "n_splits": kept}}
    Raises:
        ValueError: a k that is not a number of heads.
    """
    n_heads = contrasts.shape[2]
    if wrong := [k for k in ks if not 1 <= k <= n_heads]:
        raise ValueError(f"a list of the top {wrong[0]} heads is not possible: there are {n_heads} heads")
    tops = [[rank_heads(half[None], max(ks, default=0))[0] for half in halves] for halves in contrasts]
    overlap = {}
    for k in ks if tops else ():
        shares = [len({*first[:k]} & {*second[:k]}) / k for first, second in tops]
        ends = np.percentile(shares, (2.5, 97.5)).tolist()
        overlap[k] = {"mean": float(np.mean(shares)), "interval": {"mean": ends}, "chance": k / n_heads}
        overlap[k]["n_splits"] = len(shares)
    return overlap
