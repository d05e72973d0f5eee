"""Rows of data files, checked in one way: files that are there, lists of objects, texts, ids that come once."""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from llava_hh.files.files import Skip, refuse
from llava_hh.files.json_lists import in_list, read_rows
from llava_hh.files.kinds import refuse_pointer

Row = TypeVar("Row")
FAULTS = (ValueError, KeyError, TypeError)  # what a row of another form raises where it is read


def existing_file(path: str | Path, expected: str) -> Path:
    """The path, if there is a file.

    Raises:
        FileNotFoundError: there is none; says what was expected.
        ValueError: a Git LFS pointer.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected {expected}")
    refuse_pointer(path)
    return path


def read_list(path: Path, key: str, read: Callable[[dict], Row], expected: str, skip: Skip = None) -> list[Row]:
    """What `read` makes of each row of the list under `key` in a JSON file; "": of the list that the file is.

    Args:
        expected: the keys of a row, for messages.
        skip: takes one line for each row of another form, which is left out; None: it is an error.
    Raises:
        ValueError: no such list, or a row of another form; names the file and the row, from 1.
    """
    rows, has_list = [], False
    named = skip and (lambda problem: skip(f"{path}, {problem}"))
    try:
        for _, number, row in read_rows(path, (key,), named, is_list=not key):
            has_list = True
            if number:
                try:
                    if not isinstance(row, dict):
                        raise TypeError(f"found {row!r:.80}")
                    rows.append(read(row))
                except FAULTS as error:
                    refuse(f"{in_list(key, number)}: expected an object with {expected}; {in_words(error)}", named)
    except ValueError as error:
        where = ", " if str(error).startswith("row ") else f": not JSON with a list of objects with {expected}: "
        raise ValueError(f"{path}{where}{error}") from error
    if not has_list:
        raise ValueError(f"{path}: expected JSON with a list{f' `{key}`' if key else ''} of objects with {expected}")
    return rows


def text_of(row: dict, key: str) -> str:
    """The text under a key of a row.

    Raises:
        KeyError: no such key.
        ValueError: no text there.
    """
    if not isinstance(row[key], str):
        raise ValueError(f"{key} is {row[key]!r:.80}; expected a text")
    return row[key]


def texts_of(row: dict, key: str) -> list[str]:
    """The list of texts under a key of a row.

    Raises:
        KeyError: no such key.
        ValueError: no such list there.
    """
    if not isinstance(row[key], list) or not all(isinstance(text, str) for text in row[key]):
        raise ValueError(f"{key} is {row[key]!r:.80}; expected a list of texts")
    return row[key]


def in_words(error: Exception) -> str:
    """What is wrong with a row: a key that it lacks, or the text of what was raised."""
    return f"no `{error.args[0]}`" if isinstance(error, KeyError) else str(error)


def refuse_repeats(path: Path, image_ids: Iterable[Any]) -> None:
    """Raise ValueError, naming the file, where an image id comes a second time."""
    if repeated := [image_id for image_id, times in Counter(image_ids).items() if times > 1]:
        raise ValueError(f"{path}: image {repeated[0]} is listed twice; expected each image once")
