"""CHAIR numbers with bootstrap intervals over images, and paired differences between two methods."""

from collections.abc import Mapping, Sequence

import numpy as np

RESAMPLES = 2000
METRICS = ("chair_s", "chair_i", "recall", "mentions")


def sentence_counts(sentences: Sequence[Mapping]) -> np.ndarray:
    """(sentence, 5) counts to sum up: wrong caption, wrong mentions, mentions, right nodes, true nodes."""
    rows = []
    for entry in sentences:
        wrong, right = entry["mscoco_hallucinated_words"], entry["mscoco_non_hallucinated_words"]
        found = {node for _, node in right}
        rows.append((bool(wrong), len(wrong), len(wrong) + len(right), len(found), len(entry["mscoco_gt_words"])))
    return np.array(rows, dtype=np.float64)


def metrics_of(totals: np.ndarray, n: int) -> np.ndarray:
    """METRICS from summed counts, (..., 5) -> (..., 4); fractions, and mentions a caption."""
    captions, wrong, mentions, found, there = np.moveaxis(totals, -1, 0)
    return np.stack(
        (captions / n, wrong / np.maximum(mentions, 1), found / np.maximum(there, 1), mentions / n), axis=-1
    )


def resampled_metrics(sentences: Sequence[Mapping], seed: int = 0) -> np.ndarray:
    """METRICS of RESAMPLES bootstrap samples of the images, (resample, 4); the same seed draws the same images."""
    counts = sentence_counts(sentences)
    n = len(counts)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)  # how often each image is drawn
    return metrics_of(weights @ counts, n)


def summarise(sentences: Sequence[Mapping], seed: int = 0) -> dict:
    """chair_s, chair_i, recall (fractions), mentions (a caption), n, and their 95% bootstrap `interval`."""
    return summarise_mean([sentences], seed)


def summarise_mean(draws: Sequence[Sequence[Mapping]], seed: int = 0) -> dict:
    """The mean of METRICS over several runs on the same images, as `summarise`; the interval is over images, not runs.

    Raises:
        ValueError: the runs are not about the same images in the same order.
    """
    for draw in draws[1:]:
        _check_same_images(draw, draws[0])
    n = len(draws[0])
    values = np.mean([metrics_of(sentence_counts(draw).sum(0), n) for draw in draws], axis=0)
    resampled = np.mean([resampled_metrics(draw, seed) for draw in draws], axis=0)
    low, high = np.percentile(resampled, (2.5, 97.5), axis=0)
    return {
        **{name: round(float(value), 5) for name, value in zip(METRICS, values, strict=True)},
        "n": n,
        "interval": {
            name: [round(float(a), 5), round(float(b), 5)] for name, a, b in zip(METRICS, low, high, strict=True)
        },
    }


def summarise_difference(sentences: Sequence[Mapping], reference: Sequence[Mapping], seed: int = 0) -> dict:
    """Paired differences to a reference on the same images with 95% bootstrap intervals: {metric: [value, low, high]}.

    Raises:
        ValueError: the two are not about the same images in the same order.
    """
    _check_same_images(sentences, reference)
    n = len(sentences)
    value = metrics_of(sentence_counts(sentences).sum(0), n) - metrics_of(sentence_counts(reference).sum(0), n)
    draws = resampled_metrics(sentences, seed) - resampled_metrics(reference, seed)
    low, high = np.percentile(draws, (2.5, 97.5), axis=0)
    return {
        name: [round(float(v), 5), round(float(a), 5), round(float(b), 5)]
        for name, v, a, b in zip(METRICS, value, low, high, strict=True)
    }


def _check_same_images(sentences: Sequence[Mapping], reference: Sequence[Mapping]) -> None:
    if [entry["image_id"] for entry in sentences] != [entry["image_id"] for entry in reference]:
        raise ValueError("a paired comparison needs the same images in the same order")
