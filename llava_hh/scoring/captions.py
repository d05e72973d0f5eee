"""Files of captions to score, whoever made them: JSON lines, a JSON list, or a JSON object from ids to captions."""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_hh.data.rows import existing_file
from llava_hh.files.files import Skip, json_rows, parse_json, refuse
from llava_hh.files.ids import number_or_text
from llava_hh.files.json_lists import read_rows
from llava_hh.metrics.chair.datasets import Dataset, ImageId
from llava_hh.metrics.chair.nocaps import VARIANT as NOCAPS

NUMBERED = re.compile(r"(?:.*_)?(\d+)")  # COCO_val2014_000000000139
OF_A_ROW = ("image_id", "question_id", "text", "caption")  # keys that no object from ids to captions has
EXPECTED = "JSON lines, a caption a row, a list of such rows, or an object from ids to captions (--captions)"


@dataclass(frozen=True)
class CaptionsFile:
    """Captions to score and their ground truth: the flags of these names.

    Args:
        annotations, objects, truth: one of them is given.
    """

    captions: Path
    annotations: Path | None = None
    objects: Path | None = None
    truth: str | None = None
    dataset: str = "coco"
    variant: str = "hh"
    synonyms: Path | None = None
    id_key: str | None = None
    text_key: str = "text"
    drop_incomplete: bool = False
    skip_bad: bool = False


def read_captions(given: CaptionsFile, dataset: Dataset, skip: Skip) -> list[tuple[int, dict[str, Any]]]:
    """Return the rows of a file as (row number from 1, row), with the id in `image_id` and the text in `caption`.

    Args:
        skip: takes one line for each bad row, which is left out; with None the first bad row is an error.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row without an id of `dataset` under `id_key` or a string under `text_key`; or no row at all.
    """
    rows = []
    for number, row in _rows(given, skip):
        try:
            rows.append((number, _caption_row(row, given.id_key, given.text_key, dataset)))
        except ValueError as error:
            refuse(f"{given.captions}, row {number}: {error}", skip)
    if not rows:
        raise ValueError(f"--captions {given.captions}: no caption to score; expected at least one row")
    return rows


def _rows(given: CaptionsFile, skip: Skip) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file of any form."""
    path = existing_file(given.captions, EXPECTED)
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf").lstrip()
    if content.startswith(b"["):
        yield from _list_rows(path, skip)
        return
    whole = None
    with suppress(ValueError):
        whole = parse_json(content)
    if not isinstance(whole, dict) or not _is_by_id(whole, {*OF_A_ROW, given.id_key, given.text_key}):
        yield from json_rows(path, EXPECTED, skip)
        return
    pairs = json.loads(content, object_pairs_hook=list)  # a dict would keep the last of several captions of an id
    ids = Counter(number_or_text(key) if key else key for key, _ in pairs)
    if repeated := [image_id for image_id, count in ids.items() if count > 1]:
        raise ValueError(f"{path}: image {repeated[0]!r} has {ids[repeated[0]]} captions; expected one for each id")
    for row, (key, text) in enumerate(whole.items(), start=1):
        yield row, {given.id_key or "image_id": key, given.text_key: text}


def _is_by_id(whole: dict[str, Any], of_a_row: set[str | None]) -> bool:
    """Whether an object has captions by ids, and is not the only row of a file of JSON lines."""
    has_text = not whole or any(isinstance(value, str) for value in whole.values())
    return has_text and not of_a_row & whole.keys()


def _list_rows(path: Path, skip: Skip) -> Iterator[tuple[int, dict[str, Any]]]:
    named = skip and (lambda problem: skip(f"{path}, {problem}"))
    try:
        for _, number, row in read_rows(path, skip=named, is_list=True):
            if number and not isinstance(row, dict):
                refuse(f"row {number}: expected an object, found a {type(row).__name__}", named)
            elif number:
                yield number, row
    except ValueError as error:
        raise ValueError(f"{path}{', ' if str(error).startswith('row ') else ': '}{error}") from None


def _caption_row(row: dict[str, Any], id_key: str | None, text_key: str, dataset: Dataset) -> dict[str, Any]:
    if id_key is None and "image_id" not in row and (found := _ids_elsewhere(row, dataset)):
        if len({*found.values()}) > 1:
            named = " and ".join(f"{key} {row[key]!r}" for key in found)
            raise ValueError(f"{named} are not one image; say by --id-key which counts")
        row = {**row, "image_id": next(iter(found.values()))}
    if text_key == "text" and "text" not in row and "caption" in row:  # as COCO's results have it
        row = {"text": row["caption"], **row}
    id_key = id_key or "image_id"
    for key, flag in ((id_key, "--id-key"), (text_key, "--text-key")):
        if key not in row:
            keys = " ".join(", ".join(sorted(row)).split()) or "none"
            raise ValueError(f"no key {key!r} ({flag}); its keys are {keys}")
    try:
        image_id, text = dataset.image_id(row[id_key]), row[text_key]
    except ValueError:
        raise ValueError(f"{id_key!r} (--id-key) is {row[id_key]!r}; expected {dataset.id_expected}") from None
    if not isinstance(text, str):
        raise ValueError(f"{text_key!r} (--text-key) is {text!r}; expected a string")
    return {**row, "image_id": image_id, "caption": text}


def _ids_elsewhere(row: dict[str, Any], dataset: Dataset) -> dict[str, ImageId]:
    """The ids of an image under question_id and in its file's name under image, of those that are there.

    Numbers come before texts, which may be any.
    """
    found = {}
    for key in ("question_id", "image"):
        value = row.get(key)
        if key == "image" and isinstance(value, str) and dataset.variant != NOCAPS:
            value = Path(value).name if dataset.image_id is number_or_text else _number_in(value) or value
        with suppress(ValueError):
            found[key] = dataset.image_id(value)
    numbers = {key: image_id for key, image_id in found.items() if isinstance(image_id, int)}
    return numbers or found


def _number_in(name: str) -> str | None:
    """The number at the end of an image's name, before its suffix: 139 of COCO_val2014_000000000139.jpg."""
    numbered = NUMBERED.fullmatch(Path(name).stem)
    return numbered and numbered[1]


def with_known_id(row: dict[str, Any], known: Collection[ImageId]) -> dict[str, Any]:
    """A row whose image is known by the number in its name alone, under that number; other rows as they are."""
    name = row["image_id"]
    if name in known or not isinstance(name, str) or not (number := _number_in(name)):
        return row
    return {**row, "image_id": int(number)} if int(number) in known else row
