"""COCO's files as plain records: image lists, instance and caption annotations."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava_hh.data.rows import FAULTS, existing_file, in_words, read_list, refuse_repeats, text_of, texts_of
from llava_hh.files.files import Skip, json_rows, read_json, refuse, sha256, write_text
from llava_hh.files.ids import whole_id
from llava_hh.files.json_lists import in_list, read_rows
from llava_hh.files.processes import processes

RULES = "2: text ids are numbers; what an instances file does not list is not known"  # of reading, for cached copies
INSTANCES = ("images", "annotations", "categories")  # what is read of an instances file
FIELDS = ("id", "image_id", "category_id", "name", "caption")  # and of a row of it, or of a captions file


@dataclass(slots=True)
class ImageAnnotations:
    """What COCO says of one image: categories of its instances, and its reference captions."""

    categories: set[str] = field(default_factory=set)
    captions: list[str] = field(default_factory=list)


def load_image_list(captions_json: str | Path) -> list[dict[str, Any]]:
    """Return the images of a COCO captions (or instances) file as {"image_id", "file_name"}, in file order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no list of images with `id` and `file_name`, or lists an image twice.
    """
    path = existing_file(captions_json, "a COCO captions file")

    def read(image: dict) -> dict[str, Any]:
        return {"image_id": whole_id(image["id"]), "file_name": text_of(image, "file_name")}

    records = read_list(path, "images", read, "`id` and `file_name`")
    refuse_repeats(path, (record["image_id"] for record in records))
    return records


def load_annotations(
    annotation_dir: str | Path,
    image_ids: Iterable[int],
    splits: Sequence[str] | None = None,
    allow_missing: bool = False,
    cache: Path | None = None,
    skip: Skip = None,
) -> dict[int, ImageAnnotations]:
    """Read captions_{split}.json and instances_{split}.json, restricted to `image_ids`.

    What an image shows is known if an instances file has it in its list `images`; without instances it shows nothing.

    Args:
        splits: such as ("train2014", "val2014"); None takes every split that has a file in the folder.
        allow_missing: leave out an image that no instances file lists, where it would be an error.
        cache: a JSON file, best in the result folder, that keeps what was read, since COCO's files take a minute to
            parse. It is used as long as COCO's files are the same and it has the images. Of several processes only the
            first parses.
        skip: takes one line for each annotation of another form, which is left out; None: it is an error.
    Raises:
        FileNotFoundError: the folder, or one of a split's two files, is missing.
        ValueError: a file isn't COCO's format, or no instances file lists an image.
    """
    files = annotation_files(annotation_dir, splits)
    wanted = list(dict.fromkeys(image_ids))
    annotations = _read_files(files, wanted, skip) if cache is None else _read_cached(files, wanted, cache, skip)
    if not allow_missing and (missing := [image_id for image_id in wanted if image_id not in annotations]):
        raise ValueError(
            f"{annotation_dir}: image {missing[0]} has no annotation; looked in "
            f"{', '.join(path.name for path in files)}. The list `images` of an instances file must have it"
        )
    return {image_id: annotations[image_id] for image_id in wanted if image_id in annotations}


def _read_files(files: Sequence[Path], image_ids: Sequence[int], skip: Skip) -> dict[int, ImageAnnotations]:
    wanted, annotations, listed = set(image_ids), {}, set()
    for path in files:
        named = skip and (lambda problem, path=path: skip(f"{path}: {problem}"))
        try:
            listed |= _add_annotations(annotations, path, wanted, named)
        except (*FAULTS, AttributeError) as error:
            raise ValueError(f"{path}: expected COCO's format, but {in_words(error)}") from error
    return {image_id: entry for image_id, entry in annotations.items() if image_id in listed}


def _add_annotations(
    annotations: dict[int, ImageAnnotations], path: Path, wanted: set[int], skip: Skip = None
) -> set[int]:
    """Add what one file says of the wanted images, a row in memory at a time.

    Returns: those of the images that it lists, if it is an instances file.
    """
    with_captions = path.name.startswith("captions_")
    names: dict[int, str] = {}
    category_ids: defaultdict[int, set[int]] = defaultdict(set)
    listed: set[int] = set()
    has_list = False
    for key, row, item in read_rows(path, ("annotations",) if with_captions else INSTANCES, skip, fields=FIELDS):
        has_list |= key == "annotations"
        if not row:
            continue
        try:
            if key == "annotations":
                if (image_id := whole_id(item["image_id"], "image_id")) not in wanted:
                    continue
                if with_captions:
                    annotations.setdefault(image_id, ImageAnnotations()).captions.append(text_of(item, "caption"))
                else:
                    category_ids[image_id].add(whole_id(item["category_id"], "category_id"))
            elif key == "categories":
                names[whole_id(item["id"])] = text_of(item, "name")
            elif (image_id := whole_id(item["id"])) in wanted:
                listed.add(image_id)
        except FAULTS as error:
            refuse(f"{in_list(key, row)}: {in_words(error)}", skip)
    if not has_list:
        raise ValueError("there is no list `annotations`")
    for image_id in listed:
        annotations.setdefault(image_id, ImageAnnotations())
    while category_ids:  # sets of names replace the sets of ids one by one, so that memory holds one kind of them
        image_id, ids = category_ids.popitem()
        if unknown := ids - names.keys():
            raise ValueError(f"image {image_id} has category {min(unknown)}, which is not in its list `categories`")
        annotations.setdefault(image_id, ImageAnnotations()).categories.update(names[category] for category in ids)
    return listed


def _read_cached(
    files: Sequence[Path], image_ids: Sequence[int], cache: Path, skip: Skip
) -> dict[int, ImageAnnotations]:
    """The annotations through a cache, which the first process writes and the others read."""
    team, annotations = processes(), None
    if team.is_main:
        key = {"rules": RULES, **{path.name: sha256(path) for path in files}}
        annotations = _cached(cache, image_ids, key)
        if annotations is None:
            skipped: list[str] = []
            noting = skip and (lambda problem: (skipped.append(problem), skip(problem)))
            annotations = _read_files(files, image_ids, noting)
            images: dict[str, dict | None] = dict.fromkeys(map(str, image_ids))  # None: known to have no annotation
            for image_id, entry in annotations.items():
                images[str(image_id)] = {"categories": sorted(entry.categories), "captions": entry.captions}
            if cache.is_file() and _is_damaged_cache(cache.read_bytes()):
                cache.unlink()
            key = {} if skipped else key  # {}: for the other processes alone
            content = {"files": key, "sha256": _digest(images), "images": images}
            write_text(cache, json.dumps(content, ensure_ascii=False) + "\n")
    team.wait()
    if annotations is None and (annotations := _cached(cache, image_ids)) is None:
        raise ValueError(f"{cache}: cannot be read; expected the annotations that the first process wrote")
    return annotations


def _is_damaged_cache(content: bytes) -> bool:
    """Whether the content of a file is empty or begins as a cache does; other files are left alone."""
    begin = b'{"files"'
    return content.startswith(begin) or begin.startswith(content) or content.strip() in (b"[]", b"{}")


def _digest(images: dict[str, dict | None]) -> str:
    return hashlib.sha256(json.dumps(images, sort_keys=True).encode()).hexdigest()


def _cached(
    cache: Path, image_ids: Sequence[int], key: dict[str, str] | None = None
) -> dict[int, ImageAnnotations] | None:
    """The annotations in a cache; None where it is damaged, lacks an image, or was made from other files than `key`."""
    try:
        content = read_json(cache)
        if content["sha256"] != _digest(content["images"]):
            return None
        entries = {image_id: content["images"][str(image_id)] for image_id in image_ids}
        annotations = {
            image_id: ImageAnnotations(set(entry["categories"]), entry["captions"])
            for image_id, entry in entries.items()
            if entry is not None
        }
        return annotations if key in (None, content["files"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def annotation_files(annotation_dir: str | Path, splits: Sequence[str] | None = None) -> list[Path]:
    """Return the captions and instances files of `splits`, or of every split in the folder.

    Raises:
        FileNotFoundError: no folder, no file in it, or a split with only one of its two files.
    """
    folder = Path(annotation_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected COCO's captions_*.json and instances_*.json in it")
    if splits is None:
        names = [path.stem for kind in ("captions", "instances") for path in folder.glob(f"{kind}_*.json")]
        splits = sorted({name.split("_", 1)[1] for name in names})
    if not splits:
        raise FileNotFoundError(f"{folder}: expected captions_*.json and instances_*.json in this folder, found none")
    paths = [folder / f"{kind}_{split}.json" for split in splits for kind in ("captions", "instances")]
    return [existing_file(path, "COCO's captions and instances files of each split") for path in paths]


def categories_of(names: Iterable[str], category_of: Callable[[str], str | None]) -> set[str]:
    """The categories that names stand for.

    Raises:
        ValueError: a name that stands for none.
    """
    categories = {name: category_of(name) for name in names}
    if unknown := [name for name, category in categories.items() if category is None]:
        raise ValueError(f"object {unknown[0]!r:.80} is no category, and no synonym of one")
    return {*filter(None, categories.values())}


def load_objects(
    jsonl: str | Path,
    read_id: Callable[[object], Any] = whole_id,
    category_of: Callable[[str], str | None] = str,
    skip: Skip = None,
) -> dict[Any, set[str]]:
    """Read ground truth that a user brings: JSON lines with `image_id` and `objects`, a list of names.

    Args:
        read_id: makes an image's id of what a row has; ValueError for anything else.
        category_of: the category that a name stands for, None where there is none.
        skip: takes one line for each bad row, which is left out; None: it is an error.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row of another form, an object of no category, or a second row for an image; file and row (from 1)
            are named.
    """
    path = Path(jsonl)
    objects: dict[Any, set[str]] = {}
    for number, row in json_rows(path, "JSON lines with `image_id` and `objects`", skip):
        try:
            image_id = read_id(row["image_id"])
            shown = categories_of(texts_of(row, "objects"), category_of)
            if image_id in objects:
                raise ValueError(f"image {image_id} has a row already; expected one row an image")
            objects[image_id] = shown
        except ValueError as error:
            refuse(f"{path}, row {number}: {error}", skip)
        except KeyError as error:
            expected = "expected `image_id` and `objects`, a list of names"
            refuse(f"{path}, row {number}: {expected}; {in_words(error)}", skip)
    if not objects:
        raise ValueError(f"{path}: no row there; expected at least one")
    return objects
