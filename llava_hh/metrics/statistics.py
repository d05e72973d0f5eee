"""Metrics of captions with bootstrap intervals over images, and paired tests of methods against a reference."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from llava_hh.metrics.of_captions import METRICS, metrics_in_tables, metrics_of, sentence_counts

RESAMPLES = 2000  # bootstrap samples
PERMUTATIONS = 9999  # of the paired test; all 2^n where these are no more (n images)
Sentences = Sequence[Mapping]  # scored captions, such as `sentences` of a result file
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
        image_ids: the image of each row; rows of one image are drawn together. None: every row has its own image.
    """
    images, index = np.unique(range(len(values)) if image_ids is None else image_ids, return_inverse=True)
    sums, counts = np.zeros((len(images), *values.shape[1:])), np.bincount(index)
    np.add.at(sums, index, values)
    drawn = [
        np.tensordot(weights, sums, 1) / (weights @ counts).reshape(-1, *[1] * (values.ndim - 1))
        for weights in image_weights(len(images), resamples, seed)
    ]
    ends, bounds = np.percentile(np.concatenate(drawn), (2.5, 97.5), axis=0), (values.min(0), values.max(0))
    return values.mean(0).clip(*bounds), ends.clip(*bounds)


def resampled(measure: Callable[[np.ndarray], np.ndarray], counts: np.ndarray, seed: int = 0) -> np.ndarray:
    """What `measure` makes of the counts of RESAMPLES bootstrap samples of the images; a seed draws the same images.

    Args:
        measure: from summed counts (resample, ...) to values (resample, ...).
        counts: (image, ...).
    """
    flat = counts.reshape(len(counts), -1)
    sums = (weights @ flat for weights in image_weights(len(counts), RESAMPLES, seed))
    return np.concatenate([measure(part.reshape(-1, *counts.shape[1:])) for part in sums])


def resampled_metrics(sentences: Sentences, seed: int = 0) -> np.ndarray:
    """METRICS of RESAMPLES bootstrap samples of the images, (resample, metric)."""
    return resampled(metrics_of, sentence_counts(sentences), seed)


def interval_of(values: np.ndarray) -> list:
    """The 95% percentile interval of resampled values, [low, high]; of (resample, column), one for every column."""
    return rounded(np.percentile(values, (2.5, 97.5), axis=0).T)


def rounded(values: np.ndarray) -> list:
    """The numbers of an array to five decimals, as lists."""
    return [round(value, 5) for value in values.tolist()] if values.ndim == 1 else [rounded(row) for row in values]


def summarise(sentences: Sentences, seed: int = 0) -> dict:
    """METRICS of scored captions, their number `n`, and the 95% bootstrap `interval` of each metric over images.

    Raises:
        ValueError: no captions.
    """
    return summarise_mean([sentences], seed)


def summarise_mean(draws: Sequence[Sentences], seed: int = 0) -> dict:
    """The mean of METRICS over several runs on the same images, with the keys of `summarise`.

    The interval is over images, not over runs.

    Raises:
        ValueError: no captions, or the runs are not about the same images in the same order.
    """
    _check_same_images(draws)
    counts = [sentence_counts(draw) for draw in draws]
    values = np.mean([metrics_of(of_draw.sum(0)) for of_draw in counts], axis=0)
    intervals = interval_of(np.mean([resampled(metrics_of, of_draw, seed) for of_draw in counts], axis=0))
    named = dict(zip(METRICS, rounded(values), strict=True))
    return {**named, "n": len(draws[0]), "interval": dict(zip(METRICS, intervals, strict=True))}


def compare_with_reference(
    sentences: Mapping[str, Sentences], reference: str, metrics: Sequence[str] | None = None, seed: int = 0
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
    groups: dict[tuple, dict[str, Sentences]] = defaultdict(dict)  # by images; methods on the same ones
    others = [name for name in sentences if name != reference]
    for name in others:
        groups[tuple(entry["image_id"] for entry in sentences[name])][name] = sentences[name]
    compared = {}
    for methods in groups.values():
        base = on_same_images(sentences[reference], next(iter(methods.values())))
        compared |= _differences(methods, base, metrics, seed)
    result = {name: compared[name] for name in others}
    tests = [test for of_method in result.values() for test in of_method.values()]
    for test, corrected in zip(tests, holm([test["p"] for test in tests]).tolist(), strict=True):
        test |= {"p": round(test["p"], 6), "p_holm": round(corrected, 6)}
    return result


def spread_over_runs(runs: Sequence[Sentences], references: Sequence[Sentences], seed: int = 0) -> dict:
    """How far METRICS vary from run to run, such as seeds of one training, each against a reference on the same images.

    Args:
        runs: scored captions of each run, all on the same images in the same order.
        references: one for all runs, or one for every run.
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
    values, base = (np.array([metrics_of(sentence_counts(run).sum(0)) for run in part]) for part in (runs, references))
    pairs = zip(runs, references, strict=True)
    drawn = [resampled_metrics(run, seed) - resampled_metrics(other, seed) for run, other in pairs]
    sd_images = rounded(np.sqrt(np.mean([differences.var(0, ddof=1) for differences in drawn], axis=0)))
    result: dict = {"n_runs": len(runs), "n": len(runs[0])}
    for metric, of_runs, difference, sd in zip(METRICS, values.T, (values - base).T, sd_images, strict=True):
        half = t.ppf(0.975, len(runs) - 1) * difference.std(ddof=1) / np.sqrt(len(runs))
        interval = {"mean": rounded(difference.mean() + np.array([-half, half]))}
        result[metric] = _spread(of_runs)
        result[metric]["minus_reference"] = {**_spread(difference), "interval": interval, "sd_images": sd}
    return result


def _spread(values: np.ndarray) -> dict:
    mean, sd, low, high = rounded(np.array([values.mean(), values.std(ddof=1), values.min(), values.max()]))
    return {"values": rounded(values), "mean": mean, "sd": sd, "range": [low, high]}


def on_same_images(sentences: Sentences, others: Sentences) -> list[Mapping]:
    """Those of `sentences` whose images `others` are about.

    Raises:
        ValueError: no images, one that is missing, or another order.
    """
    images = {entry["image_id"] for entry in others}
    chosen = [entry for entry in sentences if entry["image_id"] in images]
    _check_same_images([chosen, others])
    return chosen


def _differences(methods: Mapping[str, Sentences], reference: Sentences, metrics: Sequence[str], seed: int) -> dict:
    """The comparisons of `compare_with_reference`, before correction, of methods on the images of the reference."""
    base = sentence_counts(reference)
    counts = np.stack([sentence_counts(entries) for entries in methods.values()])
    values = rounded(metrics_of(counts.sum(1)) - metrics_of(base.sum(0)))
    p_values = permutation_p_values(counts, base, seed).tolist()
    drawn, p_floor = resampled(metrics_of, base, seed), round(smallest_p(len(reference)), 6)
    intervals = [interval_of(resampled(metrics_of, of_method, seed) - drawn) for of_method in counts]
    tests = {}
    for name, *of_method in zip(methods, values, intervals, p_values, strict=True):
        of_metric = dict(zip(METRICS, zip(*of_method, strict=True), strict=True))
        tests[name] = {
            metric: {"difference": difference, "interval": {"difference": interval}, "p": p, "p_floor": p_floor}
            for metric, (difference, interval, p) in ((metric, of_metric[metric]) for metric in metrics)
        }
    return tests


def permutation_p_values(counts: np.ndarray, reference: np.ndarray, seed: int = 0) -> np.ndarray:
    """Two-sided p-values of paired differences in METRICS: (method, image, count), (image, count) to (method, metric).

    Null: on each image it is an even chance which of the two captions is the method's. Both captions of a random set of
    images are swapped whole and the metrics computed anew; p is the share of swaps with at least the observed absolute
    difference, the observed one included. Exact, by all 2^n swaps, where these are at most PERMUTATIONS.
    """
    from scipy.stats import permutation_test

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

    # The two samples are marks: 0 where an image keeps its own caption, 1 where it has the reference's.
    marks, batch, rng = (np.zeros(n), np.ones(n)), max(1, PIECE // (2 * n)), np.random.default_rng(seed)
    manner = {"permutation_type": "samples", "vectorized": True, "alternative": "greater", "axis": -1}
    return permutation_test(marks, absolute_difference, n_resamples=PERMUTATIONS, batch=batch, rng=rng, **manner).pvalue


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


def _check_same_images(methods: Sequence[Sentences]) -> None:
    images = [[entry["image_id"] for entry in sentences] for sentences in methods]
    if not images or not images[0]:
        raise ValueError("no captions to summarise")
    if any(others != images[0] for others in images):
        raise ValueError("a paired comparison needs the same images in the same order")
