"""Short answers of a file scored: VQA accuracy against VQAv2's annotations, exact match against GQA's."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from llava_hh.files.files import read_json, read_json_lines, sha256, write_json
from llava_hh.files.ids import number_or_text
from llava_hh.metrics.statistics import RESAMPLES, image_weights
from llava_hh.metrics.vqa import exact_match, vqa_accuracy
from llava_hh.runs.run import make_parent, provenance


def read_answers(path: Path, id_key: str, text_key: str) -> dict[str, str]:
    """The answer to each question, by the question's id as text.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row without an id or a text, or a second answer to a question.
    """
    answers: dict[str, str] = {}
    for number, row in read_json_lines(path):
        for key, flag in ((id_key, "--id-key"), (text_key, "--text-key")):
            if key not in row:
                raise ValueError(f"{path}, row {number}: no key {key!r} ({flag})")
        if not isinstance(row[text_key], str):
            raise ValueError(f"{path}, row {number}: {text_key!r} is {row[text_key]!r}; expected a string")
        try:
            question = _id(row[id_key], f"{id_key!r} (--id-key)")
        except ValueError as error:
            raise ValueError(f"{path}, row {number}: {error}") from None
        if question in answers:
            raise ValueError(f"{path}, row {number}: question {question} has an answer already")
        answers[question] = row[text_key]
    return answers


def read_truth(path: Path) -> dict[str, dict]:
    """Each question's `image_id`, true `answers` (each annotator's; in GQA one text) and `type`, by its id as text.

    Raises:
        OSError: the file cannot be read.
        ValueError: a file of neither layout.
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
    known = {
        "image_id": _id(entry["image_id"], "image_id"),
        "answers": [str(each["answer"]) for each in entry["answers"]],
        "type": None if entry.get("answer_type") is None else str(entry["answer_type"]),
    }
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
        own, expected = answers[question_id], known["answers"]
        accuracy = float(exact_match(own, expected)) if isinstance(expected, str) else vqa_accuracy(own, expected)
        rows.append({"question_id": question_id, **known, "answer": own, "accuracy": accuracy})
    return rows


def summarise_accuracy(rows: Sequence[Mapping]) -> dict:
    """Mean accuracy over questions, its 95% bootstrap interval over images, and the number of questions."""
    images, place = np.unique([row["image_id"] for row in rows], return_inverse=True)
    sums, counts = np.bincount(place, weights=[row["accuracy"] for row in rows]), np.bincount(place)
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
        ValueError: a file or row that cannot be scored, named.
    """
    out = out or answers_file.with_name("vqa_results.json")
    if out.resolve() in {path.resolve() for path in (answers_file, truth_file)}:
        raise ValueError(f"--out {out}: is an input of this run; expected another file")
    make_parent(out)
    answers, truth = read_answers(answers_file, id_key, text_key), read_truth(truth_file)
    if unknown := [name for name in answers if name not in truth]:
        raise ValueError(f"{answers_file}: question {unknown[0]} is not in {truth_file}")
    if (missing := [name for name in truth if name not in answers]) and not subset:
        raise ValueError(
            f"{answers_file}: {len(missing)} of {len(truth)} questions have no answer, such as {missing[0]}; "
            "--subset scores the others"
        )
    rows = score(answers, {name: known for name, known in truth.items() if name in answers})
    by_type = defaultdict(list)
    for row in rows:
        if row["type"] is not None:
            by_type[row["type"]].append(row)
    overall = summarise_accuracy(rows)
    overall["by_type"] = {name: summarise_accuracy(own) for name, own in sorted(by_type.items())}
    run = {**provenance(), "sha256": {str(path): sha256(path) for path in (answers_file, truth_file)}}
    write_json(out, {"overall_metrics": overall, "questions": rows, "run": run})
    for name, own in {"all": overall, **overall["by_type"]}.items():
        low, high = own["interval"]["accuracy"]
        print(f"{name}: {100 * own['accuracy']:.1f}% ({100 * low:.1f} to {100 * high:.1f}), n = {own['n']}")
    print(out)
