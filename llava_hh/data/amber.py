"""AMBER's published files: annotations.json, relation.json and safe_words.txt of its `data` folder."""

from dataclasses import dataclass
from pathlib import Path

from llava_hh.data.rows import existing_file, read_list, texts_of
from llava_hh.files.files import read_json, read_text
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
    """The ground truth of one query; `kind` is "generative" or a value of TYPES.

    truth, targets: for a description, the objects in the image, and objects that are often hallucinated there.
    answer: for a question, "yes" or "no".
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
        ValueError: a file of another form, or an object that relation.json lacks; names the file and the row, from 1.
    """
    names = ("relation.json", "safe_words.txt", "annotations.json")
    relation, safe_words, path = (
        existing_file(folder / name, "AMBER's data folder as --annotations") for name in names
    )
    words_by_object = read_json(relation)
    try:
        associated = {name.lower(): _words(words_by_object, name) for name in words_by_object}
    except ValueError as error:
        raise ValueError(f"{relation}: {error}") from None
    annotations: dict[int, Annotation] = {}

    def read(row: dict) -> None:
        if (number := whole_id(row["id"])) in annotations:
            raise ValueError(f"repeats the id {number}")
        annotations[number] = _annotation(row, associated)

    read_list(path, "", read, "`id`, `type` and `truth`")
    return Amber(annotations, associated, frozenset(read_text(safe_words).lower().split("\n")) - {""})


def _words(row: dict, key: str) -> tuple[str, ...]:
    return tuple(word.lower() for word in texts_of(row, key))


def _annotation(row: dict, associated: dict[str, tuple[str, ...]]) -> Annotation:
    kind = row["type"]
    if kind == "generative":
        annotation = Annotation(kind, _words(row, "truth"), _words(row, "hallu"))
        if unknown := [word for word in (*annotation.truth, *annotation.targets) if word not in associated]:
            raise ValueError(f"{unknown[0]!r} is not in relation.json")
        return annotation
    if kind not in TYPES:
        raise ValueError(f"type is {kind!r}; expected generative or one of {', '.join(TYPES)}")
    if row["truth"] not in ("yes", "no"):
        raise ValueError(f"truth is {row['truth']!r}; expected yes or no")
    return Annotation(TYPES[kind], answer=row["truth"])
