"""Metrics of captions with bootstrap intervals over images, and paired tests of methods against a reference."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from llava_hh.metrics.of_captions import METRICS, metrics_in_tables, metrics_of, sentence_counts

RESAMPLES = 2000  # bootstrap samples
PERMUTATIONS = 9999  # of the paired test; all 2^n where these are no more (n images)
PIECE = 2**21  # most numbers in one array of resamples; bounds the memory


def image_weights(n_images: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often a bootstrap sample draws each image: pieces of (resample, image); a seed draws the same samples."""
    rng = np.random.default_rng(seed)
    piece = max(1, PIECE // n_images)
    for first in range(0, resamples, piece):
        size = min(piece, resamples - first)
        yield rng.multinomial(n_images, np.full(n_images, 1 / n_images), size=size).astype(np.float64)


def mean_with_interval(
    values: np.ndarray, resamples: int, seed: int = 0, image_ids: Sequence | np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of (row, ...) over rows, and its 95% percentile bootstrap interval over images, (2, ...).

    Neither leaves the range of the values, beyond which rounding can put a sum of equal ones.

    Args:
        image_ids: the image of each row, where an image may have several: they are drawn together. None: a row each.
    """
    images, place = np.unique(range(len(values)) if image_ids is None else image_ids, return_inverse=True)
    sums, counts = np.zeros((len(images), *values.shape[1:])), np.bincount(place)
    np.add.at(sums, place, values)
    drawn = [
        np.tensordot(weights, sums, 1) / (weights @ counts).reshape(-1, *[1] * (values.ndim - 1))
        for weights in image_weights(len(images), resamples, seed)
    ]
    low, high = values.min(0), values.max(0)
    ends = np.percentile(np.concatenate(drawn), (2.5, 97.5), axis=0)
    return values.mean(0).clip(low, high), ends.clip(low, high)


def resampled_metrics(sentences: Sequence[Mapping], seed: int = 0) -> np.ndarray:
    """METRICS of RESAMPLES bootstrap samples of the images, (resample, metric); the same seed draws the same images."""
    counts = sentence_counts(sentences)
    return np.concatenate([metrics_of(weights @ counts) for weights in image_weights(len(counts), RESAMPLES, seed)])


def summarise(sentences: Sequence[Mapping], seed: int = 0) -> dict:
    """METRICS of scored captions, their number n, and the 95% bootstrap `interval` of each metric over images.

    Raises:
        ValueError: no captions.
    """
    return summarise_mean([sentences], seed)


def summarise_mean(draws: Sequence[Sequence[Mapping]], seed: int = 0) -> dict:
    """The mean of METRICS over several runs on the same images, as `summarise`; the interval is over images, not runs.

    Raises:
        ValueError: no captions, or the runs are not about the same images in the same order.
    """
    _check_same_images(draws)
    n = len(draws[0])
    values = np.mean([metrics_of(sentence_counts(draw).sum(0)) for draw in draws], axis=0)
    resampled = np.mean([resampled_metrics(draw, seed) for draw in draws], axis=0)
    intervals = np.percentile(resampled, (2.5, 97.5), axis=0).T
    return {
        **{name: round(float(value), 5) for name, value in zip(METRICS, values, strict=True)},
        "n": n,
        "interval": {name: _rounded(interval) for name, interval in zip(METRICS, intervals, strict=True)},
    }


def compare_with_reference(
    sentences: Mapping[str, Sequence[Mapping]], reference: str, metrics: Sequence[str] | None = None, seed: int = 0
) -> dict[str, dict[str, dict]]:
    """Each method's metrics minus those of the reference, over the method's images.

    Args:
        sentences: scored captions by method, the reference among them, in the same order of images. A method may lack
            images that the reference has.
        metrics: which of METRICS; None: those that tables of methods show. Holm's correction is over all methods and
            metrics of the call, so name all that are reported and no more.
    Returns:
        {method: {metric: {"difference", "interval": {"difference": [low, high]}, "p", "p_holm", "p_floor"}}} without
        the reference: the paired 95% bootstrap interval over images, the p-value of `permutation_p_values` before and
        after correction, and the smallest that it could be; where `p` is that, both are upper bounds.
    Raises:
        ValueError: an unknown reference or metric, no captions, or other images or another order of images.
    """
    if reference not in sentences:
        raise ValueError(f"no method {reference!r} to compare with; expected one of: {', '.join(sentences)}")
    metrics = metrics_in_tables() if metrics is None else metrics
    if unknown := set(metrics) - set(METRICS):
        raise ValueError(f"metric {min(unknown)!r} is not known; expected some of: {', '.join(METRICS)}")
    same_images: dict[tuple, list[str]] = {}
    for name, entries in sentences.items():
        if name != reference:
            same_images.setdefault(tuple(entry["image_id"] for entry in entries), []).append(name)
    found = {}
    for names in same_images.values():
        base = on_same_images(sentences[reference], sentences[names[0]])
        found |= _differences({name: sentences[name] for name in names}, base, metrics, seed)
    result = {name: found[name] for name in sentences if name != reference}
    tests = [entry for own in result.values() for entry in own.values()]
    for entry, corrected in zip(tests, holm([entry["p"] for entry in tests]), strict=True):
        entry["p_holm"] = round(float(corrected), 6)
        entry["p"] = round(entry["p"], 6)
    return result


def spread_over_runs(runs: Sequence[Sequence[Mapping]], references: Sequence[Sequence[Mapping]], seed: int = 0) -> dict:
    """How far METRICS vary from run to run, such as seeds of one training, each against a reference on the same images.

    Args:
        runs: scored captions of each run, all on the same images in the same order.
        references: one for all runs, or one for each.
    Returns: {"n_runs", "n" (images), metric: {"values", "mean", "sd", "range", "minus_reference": {"values", "mean",
        "sd", "range", "interval": {"mean"}, "sd_images"}}}. `sd` is over runs (n - 1 in the denominator). `interval`:
        95%, of the mean difference over runs, as if they were drawn from a normal distribution; the images stay the
        same. `sd_images`: root mean square over runs of the bootstrap standard deviation over images of one run's
        difference; where it is above `sd`, other images would change one run's result more than another seed.
    Raises:
        ValueError: fewer than two runs, another number of references, or other images.
    """
    from scipy.stats import t

    if len(runs) < 2 or len(references) not in (1, len(runs)):
        raise ValueError(f"{len(runs)} runs and {len(references)} references; expected two or more, and one or as many")
    references = list(references) * (len(runs) // len(references))
    _check_same_images([*runs, *references])
    n = len(runs[0])
    values, base = (np.array([metrics_of(sentence_counts(own).sum(0)) for own in part]) for part in (runs, references))
    pairs = zip(runs, references, strict=True)
    resampled = [resampled_metrics(own, seed) - resampled_metrics(other, seed) for own, other in pairs]
    sd_images = np.sqrt(np.mean([own.var(0, ddof=1) for own in resampled], axis=0))
    result: dict = {"n_runs": len(runs), "n": n}
    for place, metric in enumerate(METRICS):
        own, difference = values[:, place], values[:, place] - base[:, place]
        half = t.ppf(0.975, len(runs) - 1) * difference.std(ddof=1) / np.sqrt(len(runs))
        result[metric] = _spread(own) | {
            "minus_reference": _spread(difference)
            | {"interval": {"mean": _rounded(difference.mean() + np.array([-half, half]))}}
            | {"sd_images": round(float(sd_images[place]), 5)}
        }
    return result


def _spread(values: np.ndarray) -> dict:
    return {
        "values": _rounded(values),
        "mean": round(float(values.mean()), 5),
        "sd": round(float(values.std(ddof=1)), 5),
        "range": _rounded(np.array([values.min(), values.max()])),
    }


def on_same_images(sentences: Sequence[Mapping], others: Sequence[Mapping]) -> list[Mapping]:
    """Those of `sentences` whose images `others` are about.

    Raises:
        ValueError: no images, one that is missing, or another order.
    """
    images = {entry["image_id"] for entry in others}
    found = [entry for entry in sentences if entry["image_id"] in images]
    _check_same_images([found, others])
    return found


def _differences(
    methods: Mapping[str, Sequence[Mapping]], reference: Sequence[Mapping], metrics: Sequence[str], seed: int
) -> dict[str, dict[str, dict]]:
    """`compare_with_reference` for methods over the reference's images, before correction."""
    base, names = sentence_counts(reference), list(METRICS)
    counts = np.stack([sentence_counts(entries) for entries in methods.values()])
    values = metrics_of(counts.sum(1)) - metrics_of(base.sum(0))
    p_values = permutation_p_values(counts, base, seed)
    resampled_reference = resampled_metrics(reference, seed)
    result = {}
    for name, value, p in zip(methods, values, p_values, strict=True):
        spread = resampled_metrics(methods[name], seed) - resampled_reference
        intervals = np.percentile(spread, (2.5, 97.5), axis=0).T
        result[name] = {
            metric: {
                "difference": round(float(value[place]), 5),
                "interval": {"difference": _rounded(intervals[place])},
                "p": float(p[place]),
                "p_floor": round(smallest_p(len(reference)), 6),
            }
            for metric, place in ((metric, names.index(metric)) for metric in metrics)
        }
    return result


def permutation_p_values(counts: np.ndarray, reference: np.ndarray, seed: int = 0) -> np.ndarray:
    """Two-sided p-values of paired differences in METRICS: (method, image, count), (image, count) to (method, metric).

    Null: on each image it is an even chance which of the two captions is the method's. Both captions of a random set of
    images are swapped whole and the metrics computed anew; p is the share of swaps with at least the observed absolute
    difference, the observed one included. Exact, by all 2^n swaps, where these are at most PERMUTATIONS.
    """
    n_methods, n, n_counts = counts.shape
    if n == 1:  # both swaps have the same absolute difference; scipy wants two images
        return np.ones((n_methods, len(METRICS)))
    change = np.moveaxis(reference - counts, 0, 1).reshape(n, -1)  # image (method count)
    totals = counts.sum(1)  # method count

    def absolute_difference(swapped: np.ndarray, _: np.ndarray, axis: int) -> np.ndarray:
        moved = (swapped @ change).reshape(*swapped.shape[:-1], n_methods, n_counts)
        difference = metrics_of(totals + moved) - metrics_of(reference.sum(0) - moved)
        # Equal differences of other fractions (1/3 - 1/6, 1/2 - 1/3) differ in their last bits. scipy's tolerance is
        # relative to the difference and too small where that is far below the fractions.
        return np.abs(difference).round(12)

    from scipy.stats import permutation_test

    # The two samples are marks: 0 where an image keeps its own caption, 1 where it has the reference's.
    test = permutation_test(
        (np.zeros(n), np.ones(n)),
        absolute_difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        batch=max(1, PIECE // (2 * n)),
        alternative="greater",
        axis=-1,
        rng=np.random.default_rng(seed),
    )
    return test.pvalue


def smallest_p(n: int) -> float:
    """The smallest p-value that `permutation_p_values` can have with n images.

    Only the observed difference is then so large; swapping all images makes the same one with the other sign.
    """
    return 2 / 2**n if 2**n <= PERMUTATIONS else 1 / (PERMUTATIONS + 1)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's step-down adjustment of the p-values of a family of tests, in their order; at most 1.

    Raises:
        ValueError: not a flat list of numbers in [0, 1].
    Source: Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values must be a flat list of numbers from 0 to 1, not {p_values}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 5) for value in values]


def _check_same_images(methods: Sequence[Sequence[Mapping]]) -> None:
    images = [[entry["image_id"] for entry in sentences] for sentences in methods]
    if not images or not images[0]:
        raise ValueError("no captions to summarise")
    if any(own != images[0] for own in images):
        raise ValueError("a paired comparison needs the same images in the same order")
