"""Short answers of a file scored: VQA accuracy against VQAv2's annotations, exact match against GQA's."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llava_hh.files.files import read_json, read_json_lines
from llava_hh.files.ids import number_or_text
from llava_hh.metrics.statistics import RESAMPLES, image_weights
from llava_hh.metrics.vqa import exact_match, vqa_accuracy
from llava_hh.scoring.result import see_writable, write_scores

Answer = tuple[Any, str]  # what says which question, and the text


def read_texts(path: Path, read: Callable[[dict], Answer | None], expected: str = "JSON lines") -> dict[Any, str]:
    """The answers of a file of JSON lines; `read` makes the question's key and the text of a row, None to leave it out.

    Raises:
        FileNotFoundError: there is no such file; says what was `expected`.
        ValueError: no row, a row that `read` refuses, or a second answer to a question; names the row.
    """
    texts: dict[Any, str] = {}
    for number, row in read_json_lines(path, expected):
        try:
            answer = read(row)
            if answer and answer[0] in texts:
                raise ValueError("answers a question for the second time")
        except ValueError as error:
            raise ValueError(f"{path}, row {number}: {error}") from None
        texts |= [answer] if answer else []
    return texts


def text_of(row: Mapping, key: str) -> str:
    """The text under a key of a row; ValueError where there is no string."""
    if not isinstance(row.get(key), str):
        raise ValueError(f"{key!r} is {row.get(key)!r}; expected a string")
    return row[key]


def read_answers(path: Path, id_key: str, text_key: str) -> dict[str, str]:
    """The answer to each question, by the question's id as text.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row without an id or a text, or a second answer to a question.
    """

    def read(row: dict) -> tuple[str, str]:
        for key, flag in ((id_key, "--id-key"), (text_key, "--text-key")):
            if key not in row:
                raise ValueError(f"no key {key!r} ({flag})")
        return _id(row[id_key], f"{id_key!r} (--id-key)"), text_of(row, text_key)

    return read_texts(path, read)


def read_truth(path: Path) -> dict[str, dict]:
    """Each question's `image_id`, true `answers` (each annotator's; in GQA one text) and `type`, by its id as text.

    Raises:
        OSError: the file cannot be read.
        ValueError: a file in neither VQAv2's nor GQA's layout.
    """
    content = read_json(path)
    of_vqa = isinstance(content.get("annotations"), list)
    truth: dict[str, dict] = {}
    for row, entry in enumerate(content["annotations"] if of_vqa else content.items(), start=1):
        try:
            question, known = _vqa_entry(entry) if of_vqa else _gqa_entry(*entry)
            if question in truth:
                raise ValueError(f"question {question} is there twice")
        except (KeyError, TypeError, ValueError) as error:
            expected = "expected VQAv2's annotations or GQA's questions"
            raise ValueError(f"{path}, row {row}: {expected}, but found {error!r}") from None
        truth[question] = known
    return truth


def _vqa_entry(entry: Mapping) -> tuple[str, dict]:
    image_id, kind = _id(entry["image_id"], "image_id"), entry.get("answer_type")
    answers = [str(annotator["answer"]) for annotator in entry["answers"]]
    known = {"image_id": image_id, "answers": answers, "type": None if kind is None else str(kind)}
    return _id(entry["question_id"], "question_id"), known


def _gqa_entry(name: str, entry: Mapping) -> tuple[str, dict]:
    known = {"image_id": _id(entry["imageId"], "imageId"), "answers": str(entry["answer"]), "type": None}
    return _id(name, "question"), known


def _id(value: object, name: str) -> str:
    return str(number_or_text(value, name))


def score(answers: Mapping[str, str], truth: Mapping[str, dict]) -> list[dict]:
    """A row for each question: its ids, the answer, what was expected, and its accuracy (a fraction)."""
    rows = []
    for question_id, known in truth.items():
        answer, expected = answers[question_id], known["answers"]
        accuracy = float(exact_match(answer, expected)) if isinstance(expected, str) else vqa_accuracy(answer, expected)
        rows.append({"question_id": question_id, **known, "answer": answer, "accuracy": accuracy})
    return rows


def summarise_accuracy(rows: Sequence[Mapping]) -> dict:
    """Mean accuracy over questions, its 95% bootstrap interval over images, and the number of questions."""
    images, index = np.unique([row["image_id"] for row in rows], return_inverse=True)
    sums, counts = np.bincount(index, weights=[row["accuracy"] for row in rows]), np.bincount(index)
    drawn = [weights @ sums / (weights @ counts) for weights in image_weights(len(images), RESAMPLES, seed=0)]
    interval = np.percentile(np.concatenate(drawn), (2.5, 97.5))
    return {"accuracy": float(sums.sum() / counts.sum()), "interval": {"accuracy": interval.tolist()}, "n": len(rows)}


def score_file(
    answers_file: Path, truth_file: Path, id_key: str, text_key: str, subset: bool, out: Path | None
) -> None:
    """Score a file, write vqa_results.json beside it or `out`, and print the accuracies.

    Args:
        id_key, text_key: of a question's id and of the answer in a row.
        subset: score the answered questions alone, where others are an error.
    Raises:
        ValueError: a file or row that cannot be scored; the message names it.
    """
    out, inputs = out or answers_file.with_name("vqa_results.json"), (answers_file, truth_file)
    see_writable(out, inputs)
    answers, truth = read_answers(answers_file, id_key, text_key), read_truth(truth_file)
    if unknown := [name for name in answers if name not in truth]:
        raise ValueError(f"{answers_file}: question {unknown[0]} is not in {truth_file}")
    if (missing := [name for name in truth if name not in answers]) and not subset:
        lacking = f"{len(missing)} of {len(truth)} questions have no answer, such as {missing[0]}"
        raise ValueError(f"{answers_file}: {lacking}; --subset scores the others")
    rows = score(answers, {name: known for name, known in truth.items() if name in answers})
    by_type = defaultdict(list)
    for row in rows:
        if row["type"] is not None:
            by_type[row["type"]].append(row)
    overall = summarise_accuracy(rows)
    overall["by_type"] = {name: summarise_accuracy(of_type) for name, of_type in sorted(by_type.items())}
    lines = []
    for name, summary in {"all": overall, **overall["by_type"]}.items():
        low, high = summary["interval"]["accuracy"]
        share = f"{100 * summary['accuracy']:.1f}% ({100 * low:.1f} to {100 * high:.1f})"
        lines.append(f"{name}: {share}, n = {summary['n']}")
    write_scores(out, {"overall_metrics": overall, "questions": rows}, inputs, "\n".join(lines))
