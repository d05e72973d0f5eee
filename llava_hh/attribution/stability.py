"""How far contrastive influence depends on which images were captioned: intervals of scores, overlap of head lists.

Words of one image are alike, so resamples draw images: all targets of an image go together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llava_hh.attribution.contrast import check_kinds, rank_heads
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

    def pulls(self) -> np.ndarray:
        """How far each image pulls each contrastive influence from what the others say, (image, head), to first order.

        `sums` has to be (kind, image, head).
        """
        totals = self.counts.sum(1)
        means = self.sums.sum(1) / totals[:, None]  # kind head
        pulls = (self.sums - self.counts[:, :, None] * means[:, None]) / totals[:, None, None]
        return pulls[0] - pulls[1]


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
    influences: np.ndarray, hallucinated: np.ndarray, image_ids: np.ndarray, resamples: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """95% percentile interval of each contrastive influence over images, (target, ...) -> low (...) and high (...).

    Resamples without a hallucinated or without a true word are dropped. With a single image there is nothing to
    resample: low and high are both the score.

    Args:
        hallucinated: (target,) bool; image_ids: (target,) the image of each target.
    Raises:
        ValueError: one of the two kinds of tokens is missing.
    """
    whole = sum_by_image(influences, hallucinated, image_ids)
    shape, n_images = whole.sums.shape[2:], whole.counts.shape[1]
    flat = whole.sums.reshape(2, n_images, -1)
    width = max(1, PIECE // resamples)  # heads at once: their percentiles need all resamples in memory
    ends = []
    for first in range(0, flat.shape[2], width):
        part = ImageSums(flat[:, :, first : first + width], whole.counts)
        drawn = np.concatenate([part.contrasts(weights) for weights in image_weights(n_images, resamples, seed)])
        ends.append(np.percentile(drawn, (2.5, 97.5), axis=0))
    low, high = np.concatenate(ends, axis=1)
    return low.reshape(shape), high.reshape(shape)


def half_contrasts(
    influences: np.ndarray, hallucinated: np.ndarray, image_ids: np.ndarray, splits: int = 200, seed: int = 0
) -> np.ndarray:
    """Contrastive influence in two random halves of the images, (target, head) -> (kept split, half, head).

    Splits with a half that lacks hallucinated or true words are dropped. A seed draws the same splits for all heads.
    """
    whole = sum_by_image(influences, hallucinated, image_ids)
    n_images = whole.counts.shape[1]
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
