"""POPE: yes-or-no questions about objects, scored with "yes" as the positive class."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from llava_hh.metrics.of_captions import ratios
from llava_hh.metrics.statistics import interval_of, resampled

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
        return label if label in answer.lower() else {"yes": "no", "no": "yes"}[label]
    first = re.search(r"\b(yes|no)\b", answer.lower())
    return first[1] if first else "unknown"


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
    pairs = []
    for answer, given in zip(answers, labels, strict=True):
        is_known = (label := given.strip().lower()) in ("yes", "no")
        if not is_known and parser != "vcd":
            raise ValueError(f"label {given!r}: expected yes or no")
        pairs.append((parse_answer(answer, parser, label) if is_known else "unknown", label))
    said, truth = np.array(pairs, dtype=object).reshape(-1, 2).T
    yes, no, is_yes, is_no = said == "yes", said == "no", truth == "yes", truth == "no"
    columns = (yes & is_yes, yes & is_no, no & is_no, ~yes & is_yes, yes, said == "unknown", np.ones_like(yes))
    return np.stack(columns, axis=-1).astype(np.float64)


def metrics_of(totals: np.ndarray) -> np.ndarray:
    """METRICS from summed COUNTS, (..., 7) -> (..., 6); what has a denominator of zero is 0."""
    tp, fp, tn, fn, yes, unknown, n = np.moveaxis(totals, -1, 0)
    above, below = (tp + tn, tp, tp, 2 * tp, yes, unknown), (n, tp + fp, tp + fn, 2 * tp + fp + fn, n, n)
    return ratios(np.stack(above, axis=-1), np.stack(below, axis=-1))


def score(answers: Sequence[str], labels: Sequence[str], parser: str = "llava") -> dict:
    """METRICS (fractions) of answers to yes-or-no questions, and how many of each kind there are.

    An unknown answer is a wrong one: it counts in the accuracy's denominator and, where the label is yes, as missed; it
    says neither yes nor no. No answers at all give zeros.

    Args:
        answers: the generated texts.
        labels: "yes" or "no" for each.
        parser: "llava", "vcd" or "strict", see `parse_answer`.
    Raises:
        ValueError: an unknown parser, a wrong label, or another number of labels than of answers.
    Source: Li et al., Evaluating Object Hallucination in Large Vision-Language Models (POPE), 2023.
    """
    totals = count_answers(answers, labels, parser).sum(0)
    values = dict(zip(METRICS, metrics_of(totals).tolist(), strict=True))
    counts = {name: int(value) for name, value in zip(COUNTS, totals, strict=True) if name not in ("unknown", "yes")}
    return values | counts


def summarise(rows: Sequence[Mapping], parser: str, key: str = "answer", seed: int = 0) -> dict:
    """The `score` of rows (`image_id`, `label` and an answer under `key`), with 95% bootstrap intervals over images.

    All questions about an image are drawn together.

    Raises:
        ValueError: no rows, an unknown parser, or a wrong label.
    """
    values = score(*_answers_and_labels(rows, key), parser)
    intervals = interval_of(resampled_metrics(rows, parser, key, seed))
    return values | {"interval": dict(zip(METRICS, intervals, strict=True))}


def compare(rows: Sequence[Mapping], reference: Sequence[Mapping], parser: str, key: str = "answer") -> dict:
    """METRICS of `rows` minus those of `reference`, the same questions: paired 95% bootstrap intervals over images.

    Raises:
        ValueError: other questions, no rows, an unknown parser, or a wrong label.
    """
    if [row["question_id"] for row in rows] != [row["question_id"] for row in reference]:
        raise ValueError("a paired comparison needs the same questions in the same order")
    values, base = (score(*_answers_and_labels(answered, key), parser) for answered in (rows, reference))
    intervals = interval_of(resampled_metrics(rows, parser, key) - resampled_metrics(reference, parser, key))
    return {
        name: {"difference": round(values[name] - base[name], 5), "interval": {"difference": interval}}
        for name, interval in zip(METRICS, intervals, strict=True)
    }


def resampled_metrics(rows: Sequence[Mapping], parser: str, key: str = "answer", seed: int = 0) -> np.ndarray:
    """METRICS of bootstrap samples of the images, (resample, 6); the same seed draws the same images."""
    if not rows:
        raise ValueError("no answers to summarise")
    counts = count_answers(*_answers_and_labels(rows, key), parser)
    indices = {image_id: index for index, image_id in enumerate(dict.fromkeys(row["image_id"] for row in rows))}
    by_image = np.zeros((len(indices), len(COUNTS)))
    np.add.at(by_image, [indices[row["image_id"]] for row in rows], counts)
    return resampled(metrics_of, by_image, seed)


def _answers_and_labels(rows: Sequence[Mapping], key: str) -> tuple[list[str], list[str]]:
    return [row[key] for row in rows], [row["label"] for row in rows]
