"""Words that any judge labelled, and the yes or no of POPE's answers, as entries that attribution reads."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_hh.files.files import json_rows
from llava_hh.files.ids import number_or_text
from llava_hh.files.images import check_image_name
from llava_hh.models.questions import DESCRIBE
from llava_hh.runs.settings import digest_of

EXPECTED = 'JSON lines such as {"image": "a.jpg", "answer": "A dog.", "spans": [[2, 5, "true"]]}'
ANSWERED = "answers.jsonl of evaluate --task pope"
SAID = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
KNOWN = ("image", "image_id", "prompt", "answer", "token_ids", "spans")


def labelled_answers(path: Path, labels: Sequence[str]) -> list[dict[str, Any]]:
    """The answers of a file with at least one labelled word, in order.

    A row has `image` (a file below the image folder), `answer`, and `spans`, each [start, end, label] in characters of
    the answer; maybe `image_id` (`image` by default; several rows may be of one image), `prompt` (the usual
    question by default) and `token_ids` (of the answer as it was generated; else its text is tokenised).

    Args:
        labels: two; words of the first take the place of hallucinated ones, words of the second that of true ones.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row of another form, a span outside the answer or of blanks, another label; names file and row.
    """
    entries = []
    for number, row in json_rows(path, EXPECTED):
        try:
            entries.append(_entry(row, labels) | {"where": f"--targets {path}, row {number}"})
        except ValueError as error:
            raise ValueError(f"--targets {path}, row {number}: {error}") from None
    if not (kept := [entry for entry in entries if entry["mentions"]]):
        raise ValueError(f"--targets {path}: no labelled word in {len(entries)} answers")
    return kept


def answered_questions(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The answers of POPE that say yes or no, in order; a wrong one takes the place of a hallucinated word.

    The target is the first yes or no of an answer, in any case. An answer without one is left out, and so is a question
    that was asked before: POPE's kinds share those about objects that are there.

    Args:
        paths: answers.jsonl of one kind of questions each.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row of another form, which names file and row; or no answer says yes or no.
    """
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for path in paths:
        for number, row in json_rows(path, ANSWERED):
            if wrong := [name for name in ("image", "prompt", "answer", "label") if not isinstance(row.get(name), str)]:
                raise ValueError(f"--answers {path}, row {number}: no text {wrong[0]}; expected {ANSWERED}")
            if (label := row["label"].strip().lower()) not in ("yes", "no"):
                raise ValueError(f"--answers {path}, row {number}: label {row['label']!r:.80}; expected yes or no")
            if said := SAID.search(row["answer"]):
                spans = [[*said.span(), "right" if said[0].lower() == label else "wrong"]]
                shown = {name: row[name] for name in KNOWN if name in row}
                try:
                    entry = _entry(shown | {"spans": spans}, ("wrong", "right"))
                except ValueError as error:
                    raise ValueError(f"--answers {path}, row {number}: {error}") from None
                entry["where"] = f"--answers {path}, row {number}"
                entries.setdefault((entry["image"], entry["prompt"]), entry)
    if not entries:
        raise ValueError(f"--answers {paths[0]}: no answer says yes or no")
    return [*entries.values()]


def _entry(row: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    if unknown := sorted({*row} - {*KNOWN}):
        raise ValueError(f"unknown key {unknown[0]!r}; a row may have {', '.join(KNOWN)}")
    for name, kind, expected in (("image", str, "a file's name"), ("answer", str, "a text"), ("spans", list, "a list")):
        if not isinstance(row.get(name), kind):
            raise ValueError(f"{name} is {row.get(name)!r:.80}; expected {expected}")
    image, answer, ids = check_image_name(row["image"]), row["answer"], row.get("token_ids")
    if ids is not None and not (isinstance(ids, list) and ids and all(type(i) is int and 0 <= i < 2**31 for i in ids)):
        raise ValueError(f"token_ids is {ids!r:.80}; expected a list of token ids")
    if not isinstance(prompt := row.get("prompt", DESCRIBE), str):
        raise ValueError(f"prompt is {prompt!r:.80}; expected a text")
    image_id = number_or_text(row.get("image_id", image), "image_id")
    mentions = sorted((_mention(answer, span, labels) for span in row["spans"]), key=lambda mention: mention["start"])
    for before, after in zip(mentions, mentions[1:], strict=False):
        if after["start"] < before["end"]:
            raise ValueError(f"the spans of {before['word']!r} and {after['word']!r} overlap; expected words apart")
    about = {"image_id": image_id, "image": image, "prompt": prompt, "token_ids": ids}
    return {**about, "caption": answer, "mentions": mentions, "sample_id": number_of([image, prompt, answer])}


def number_of(content: object) -> int:
    """A number of 60 bits that stands for something JSON-ready."""
    return int(digest_of(content)[:15], 16)


def _mention(answer: str, span: Any, labels: Sequence[str]) -> dict[str, Any]:
    if not isinstance(span, list) or len(span) != 3 or [*map(type, span[:2])] != [int, int]:
        raise ValueError(f"span {span!r:.80}; expected [start, end, label]")
    start, end, label = span
    if not 0 <= start < end <= len(answer):
        raise ValueError(f"span {start} to {end}: outside the answer, which has {len(answer)} characters")
    word = answer[start:end]
    if word != word.strip():
        raise ValueError(f"span {start} to {end} is {word!r}; expected a word without blanks around it")
    if label not in labels:
        raise ValueError(
            f"span {start} to {end}: label {label!r:.80}; expected {labels[0]!r} or {labels[1]!r} (--labels)"
        )
    found = {"word": word, "node": word.lower(), "start": start, "end": end}
    return {**found, "hallucinated": label == labels[0]}
