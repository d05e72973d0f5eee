"""Which heads need no more measuring, since too many others are ahead of them by more than chance would explain."""

import numpy as np
from scipy.stats import t as student

from llava_hh.attribution.stability import ImageSums, sum_by_image


def beaten_heads(
    influences: np.ndarray, hallucinated: np.ndarray, image_ids: np.ndarray, k: int, confidence: float
) -> np.ndarray:
    """Heads whose contrastive influence lies below that of at least k others, each by a paired one-sided test.

    A test is of the difference of two heads' contrastive influences over the same images: its standard error is that of
    a ratio estimator clustered by image, its quantile Student's. A head that belongs to the true top k is dropped only
    if a truly weaker head passes such a test against it: `confidence` is per test, not corrected for their number.

    Args:
        influences: (target, head), of the heads that are still measured; hallucinated, image_ids: (target,).
        k: length of the list that is looked for.
        confidence: of each test, above 0.5 and below 1.
    Returns: (head,) bool; nothing is beaten while there are fewer than two images, or words of one kind only.
    """
    if hallucinated.all() or not hallucinated.any() or len(set(image_ids.tolist())) < 2:
        return np.zeros(influences.shape[1], dtype=bool)
    sums = sum_by_image(influences, hallucinated, image_ids)
    n_images = sums.counts.shape[1]
    contrast = sums.contrasts(np.ones((1, n_images)))[0]
    pulls = image_pulls(sums)
    products = pulls.T @ pulls  # head head
    squares = products.diagonal()
    variances = (squares[:, None] + squares - 2 * products).clip(min=0) * n_images / (n_images - 1)
    lead = contrast[:, None] - contrast  # of the row's head over the column's
    ahead = lead > student.ppf(confidence, n_images - 1) * np.sqrt(variances)
    return ahead.sum(0) >= k


def image_pulls(sums: ImageSums) -> np.ndarray:
    """How far each image pulls each contrastive influence from what the others say, (image, head), to first order."""
    totals = sums.counts.sum(1)
    means = sums.sums.sum(1) / totals[:, None]  # kind head
    own = (sums.sums - sums.counts[:, :, None] * means[:, None]) / totals[:, None, None]
    return own[0] - own[1]
