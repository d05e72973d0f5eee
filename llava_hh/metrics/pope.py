"""POPE: yes-or-no questions about objects, scored with "yes" as the positive class."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from llava_hh.metrics.statistics import RESAMPLES, image_weights

PARSERS = ("llava", "vcd", "strict")
METRICS = ("accuracy", "precision", "recall", "f1", "yes_ratio", "unknown")
COUNTS = ("tp", "fp", "tn", "fn", "yes", "unknown", "n")
DENIALS = {"No", "not", "no"}


def parse_answer(answer: str, parser: str, label: str) -> str:
    """What an answer counts as: "yes", "no" or "unknown".

    Args:
        parser: "llava", the official one: in the text before the first full stop, without commas, a blank-separated
            word No, no or not says no, and everything else yes, the empty answer too. "vcd": the answer says what
            `label` says if that word is anywhere in it, in any case ("snowboard" holds a no), else the opposite.
            "strict": the first of the words yes and no, in any case; unknown without them.
        label: what is right; only "vcd" looks at it.
    Source: llava, RUCAIBox/POPE evaluate.py and LLaVA's eval_pope.py; vcd, VCD's eval_pope.py.
    """
    if parser == "llava":
        words = answer.split(".")[0].replace(",", "").split(" ")
        return "no" if DENIALS.intersection(words) else "yes"
    if parser == "vcd":
        opposite = {"yes": "no", "no": "yes"}
        return label if label in answer.lower() else opposite[label]
    found = re.search(r"\b(yes|no)\b", answer.lower())
    return found[1] if found else "unknown"


def count_answers(answers: Sequence[str], labels: Sequence[str], parser: str) -> np.ndarray:
    """COUNTS of each answer, (answer, 7): 0 or 1.

    Raises:
        ValueError: an unknown parser, a label other than yes and no (under "vcd" it counts as unknown), or more answers
            than labels or fewer.
    """
    if parser not in PARSERS:
        raise ValueError(f"parser {parser!r} is not known; choose one of: {', '.join(PARSERS)}")
    if len(answers) != len(labels):
        raise ValueError(f"{len(answers)} answers but {len(labels)} labels; expected one label per answer")
    rows = []
    for answer, given in zip(answers, labels, strict=True):
        label = given.strip().lower()
        if label not in ("yes", "no"):
            if parser != "vcd":
                raise ValueError(f"label {given!r}: expected yes or no")
            rows.append((0, 0, 0, 0, 0, 1, 1))
            continue
        said = parse_answer(answer, parser, label)
        pairs = (("yes", "yes"), ("yes", "no"), ("no", "no"))
        right_or_wrong = [(said, label) == pair for pair in pairs]
        missed = label == "yes" and said != "yes"
        rows.append((*right_or_wrong, missed, said == "yes", said == "unknown", 1))
    return np.array(rows, dtype=np.float64).reshape(-1, len(COUNTS))


def metrics_of(totals: np.ndarray) -> np.ndarray:
    """METRICS from summed COUNTS, (..., 7) -> (..., 6); what has a denominator of zero is 0."""
    tp, fp, tn, fn, yes, unknown, n = np.moveaxis(totals, -1, 0)
    some = np.maximum(n, 1)
    columns = (
        (tp + tn) / some,
        tp / np.maximum(tp + fp, 1),
        tp / np.maximum(tp + fn, 1),
        2 * tp / np.maximum(2 * tp + fp + fn, 1),
        yes / some,
        unknown / some,
    )
    return np.stack(columns, axis=-1)


def score(answers: Sequence[str], labels: Sequence[str], parser: str = "llava") -> dict:
    """METRICS (fractions) of answers to yes-or-no questions, and how many of each kind there are.

    An unknown answer is a wrong one: it counts in the accuracy's denominator and, where the label is yes, as missed; it
    says neither yes nor no. No answers at all give zeros.

    Args:
        answers: as generated; labels: "yes" or "no" each.
        parser: as in `parse_answer`.
    Raises:
        ValueError: as `count_answers`.
    Source: Li et al., Evaluating Object Hallucination in Large Vision-Language Models (POPE), 2023.
    """
    totals = count_answers(answers, labels, parser).sum(0)
    values = dict(zip(METRICS, map(float, metrics_of(totals)), strict=True))
    counts = {name: int(value) for name, value in zip(COUNTS, totals, strict=True) if name not in ("unknown", "yes")}
    return values | counts


def summarise(rows: Sequence[Mapping], parser: str, key: str = "answer", seed: int = 0) -> dict:
    """`score` of rows (`image_id`, `label` and an answer under `key`), with 95% bootstrap intervals over images.

    All questions about an image are drawn together.

    Raises:
        ValueError: no rows, or as `count_answers`.
    """
    values = score([row[key] for row in rows], [row["label"] for row in rows], parser)
    intervals = np.percentile(resampled_metrics(rows, parser, key, seed), (2.5, 97.5), axis=0).T
    return values | {"interval": _intervals(intervals)}


def compare(rows: Sequence[Mapping], reference: Sequence[Mapping], parser: str, key: str = "answer") -> dict:
    """METRICS of `rows` minus those of `reference`, the same questions: paired 95% bootstrap intervals over images.

    Raises:
        ValueError: other questions, or as `summarise`.
    """
    if [row["question_id"] for row in rows] != [row["question_id"] for row in reference]:
        raise ValueError("a paired comparison needs the same questions in the same order")
    own, base = (summarise(answered, parser, key) for answered in (rows, reference))
    spread = resampled_metrics(rows, parser, key) - resampled_metrics(reference, parser, key)
    intervals = _intervals(np.percentile(spread, (2.5, 97.5), axis=0).T)
    return {
        name: {"difference": round(own[name] - base[name], 5), "interval": {"difference": intervals[name]}}
        for name in METRICS
    }


def resampled_metrics(rows: Sequence[Mapping], parser: str, key: str = "answer", seed: int = 0) -> np.ndarray:
    """METRICS of RESAMPLES bootstrap samples of the images, (resample, 6); the same seed draws the same images."""
    if not rows:
        raise ValueError("no answers to summarise")
    counts = count_answers([row[key] for row in rows], [row["label"] for row in rows], parser)
    places = {image_id: place for place, image_id in enumerate(dict.fromkeys(row["image_id"] for row in rows))}
    by_image = np.zeros((len(places), len(COUNTS)))
    np.add.at(by_image, [places[row["image_id"]] for row in rows], counts)
    return np.concatenate([metrics_of(weights @ by_image) for weights in image_weights(len(places), RESAMPLES, seed)])


def _intervals(ends: np.ndarray) -> dict[str, list[float]]:
    return {name: [round(float(end), 5) for end in pair] for name, pair in zip(METRICS, ends, strict=True)}
