"""The metrics of a set of scored captions. Each is a ratio of two counts, both summed over the captions.

So all metrics share the bootstrap intervals and permutation tests of `llava_hh.metrics.statistics`. One call of
`register_metric` adds a metric.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Metric:
    """A ratio of sums; 0 where the denominator is 0.

    Args:
        parts: from a scored caption (an entry of `sentences` of a result file) to what it adds to the numerator and
            the denominator.
        head: title of its column in tables.
        factor: multiplies the value in tables.
        tested: whether tables of methods show and test it.
    """

    parts: Callable[[Entry], tuple[float, float]]
    head: str
    factor: float = 1
    tested: bool = True


def _wrong(entry: Entry) -> int:
    return len(entry["mscoco_hallucinated_words"])


def _mentions(entry: Entry) -> int:
    return _wrong(entry) + len(entry["mscoco_non_hallucinated_words"])


def _right(entry: Entry) -> int:
    return len({node for _, node in entry["mscoco_non_hallucinated_words"]})


def _named(entry: Entry) -> int:
    return len({node for key in ("", "non_") for _, node in entry[f"mscoco_{key}hallucinated_words"]})


def _in_image(entry: Entry) -> int:
    return len(entry["mscoco_gt_words"])


# Categories count once a caption in precision, recall, f1 and `distinct`; `repeated` is the share of mentions whose
# category the caption had named before. The paper's names where its files have one.
METRICS: dict[str, Metric] = {
    "CHAIRs": Metric(lambda entry: (bool(_wrong(entry)), 1), "CHAIR_s %", 100),
    "CHAIRi": Metric(lambda entry: (_wrong(entry), _mentions(entry)), "CHAIR_i %", 100),
    "precision": Metric(lambda entry: (_right(entry), _named(entry)), "precision %", 100, tested=False),
    "recall": Metric(lambda entry: (_right(entry), _in_image(entry)), "recall %", 100),
    "f1": Metric(lambda entry: (2 * _right(entry), _named(entry) + _in_image(entry)), "F1 %", 100),
    "mentions": Metric(lambda entry: (_mentions(entry), 1), "mentions"),
    "distinct": Metric(lambda entry: (_named(entry), 1), "distinct objects"),
    "repeated": Metric(lambda entry: (_mentions(entry) - _named(entry), _mentions(entry)), "repeated %", 100),
    "length": Metric(lambda entry: (len(entry["words"]), 1), "length"),
}


def register_metric(name: str, metric: Metric) -> None:
    """Add a metric to tables, result files and tests.

    Raises:
        ValueError: a name that is taken or no name.
    """
    if not name.isidentifier() or name in METRICS:
        raise ValueError(f"metric {name!r}: expected a name of letters, digits and _ that is not taken")
    METRICS[name] = metric


def metrics_in_tables() -> list[str]:
    """The metrics that tables of methods show and test."""
    return [name for name, metric in METRICS.items() if metric.tested]


def sentence_counts(sentences: Sequence[Entry]) -> np.ndarray:
    """What captions add to each metric's numerator and denominator, (sentence, 2 x metric)."""
    parts = (part for entry in sentences for metric in METRICS.values() for part in metric.parts(entry))
    width = 2 * len(METRICS)
    return np.fromiter(parts, dtype=np.float64, count=len(sentences) * width).reshape(-1, width)


def metrics_of(totals: np.ndarray) -> np.ndarray:
    """METRICS from summed counts, (..., 2 x metric) -> (..., metric)."""
    return ratios(totals[..., ::2], totals[..., 1::2])


def ratios(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Elementwise quotients; 0 where the denominator is 0."""
    return np.divide(above, below, out=np.zeros(below.shape), where=below > 0)
