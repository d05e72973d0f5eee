"""AMBER's published files: annotations.json, relation.json and safe_words.txt of its `data` folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_hh.files.files import parse_json, read_text
from llava_hh.files.ids import whole_id

TYPES = {  # of the questions, as the files name them
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
    "discriminative-relation": "relation",
    "relation": "relation",
}


@dataclass(frozen=True)
class Annotation:
    """What is known of one query; `kind` is "generative" or a value of TYPES.

    truth, targets: of a description, the objects that are there, and those that are often hallucinated there.
    answer: of a question, "yes" or "no".
    """

    kind: str
    truth: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    answer: str | None = None


@dataclass(frozen=True)
class Amber:
    """The annotations by id, the words that stand for each object, and words that are never counted as hallucinated."""

    annotations: dict[int, Annotation]
    associated: dict[str, tuple[str, ...]]
    safe_words: frozenset[str]


def load_amber(folder: Path) -> Amber:
    """Read the `data` folder of AMBER's repository; words become lower case.

    Raises:
        FileNotFoundError: a file that is not there.
        ValueError: a file of another form, or an object that relation.json lacks; one line that names the place.
    """
    associated = _associations(folder / "relation.json")
    safe_words = frozenset(_text(folder / "safe_words.txt").lower().split("\n")) - {""}
    path = folder / "annotations.json"
    entries, annotations = _json(path), {}
    if not isinstance(entries, list):
        raise ValueError(f"{path}: expected a list of annotations, found a {type(entries).__name__}")
    for place, entry in enumerate(entries):
        try:
            number, annotation = _annotation(entry, associated)
            if number in annotations:
                raise ValueError(f"repeats the id {number}")
        except ValueError as error:
            raise ValueError(f"{path}: annotation {place + 1}: {error}") from None
        annotations[number] = annotation
    return Amber(annotations, associated, safe_words)


def _text(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; --annotations is the data folder of AMBER's repository")
    return read_text(path)


def _json(path: Path) -> Any:
    text = _text(path)
    try:
        return parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _words(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ValueError(f"{name} is {value!r}; expected a list of words")
    return tuple(word.lower() for word in value)


def _associations(path: Path) -> dict[str, tuple[str, ...]]:
    content = _json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected words by object, found a {type(content).__name__}")
    try:
        return {name.lower(): _words(words, repr(name)) for name, words in content.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _annotation(entry: Any, associated: dict[str, tuple[str, ...]]) -> tuple[int, Annotation]:
    if not isinstance(entry, dict):
        raise ValueError(f"expected an object with a whole number as its id, found {entry!r:.80}")
    number, kind, truth = whole_id(entry.get("id")), entry.get("type"), entry.get("truth")
    if kind == "generative":
        found = Annotation(kind, _words(truth, "truth"), _words(entry.get("hallu"), "hallu"))
        if unknown := [word for word in (*found.truth, *found.targets) if word not in associated]:
            raise ValueError(f"{unknown[0]!r} is not in relation.json")
        return number, found
    if kind not in TYPES:
        raise ValueError(f"type is {kind!r}; expected generative or one of {', '.join(TYPES)}")
    if truth not in ("yes", "no"):
        raise ValueError(f"truth is {truth!r}; expected yes or no")
    return number, Annotation(TYPES[kind], answer=truth)
