"""COCO's files as plain records: image lists, instance and caption annotations."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava_hh.files.files import Skip, json_rows, read_json, refuse, refuse_pointer, sha256, write_text
from llava_hh.files.ids import whole_id
from llava_hh.files.json_lists import in_list, read_rows
from llava_hh.files.processes import processes

RULES = "2: text ids are numbers; what an instances file does not list is not known"  # of reading, for kept copies
INSTANCES = ("images", "annotations", "categories")  # what is read of an instances file


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
    records, has_list = [], False
    try:
        for key, row, image in read_rows(path, ("images",)):
            has_list = True
            if row:
                try:
                    records.append({"image_id": whole_id(image["id"]), "file_name": _string(image, "file_name")})
                except (ValueError, KeyError, TypeError) as error:
                    refuse(f"{in_list(key, row)}: {_in_words(error)}", None)
        if not has_list:
            raise ValueError("there is none")
    except ValueError as error:
        expected = "expected JSON with a list `images` of objects with `id` and `file_name`"
        raise ValueError(f"{path}: {expected}; {error}") from error
    refuse_repeats(path, [record["image_id"] for record in records])
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
        cache: a JSON file, best in the result folder, that keeps what was read: COCO's files take a minute to
            parse. It is used as long as COCO's files are the same and hold the images; of several
            processes only the first parses.
        skip: takes one line for each annotation of another form, which is left out; None: it is an error.
    Raises:
        FileNotFoundError: the folder, or one of a split's two files, is missing.
        ValueError: a file isn't COCO's format, or no instances file lists an image.
    """
    files = annotation_files(annotation_dir, splits)
    wanted = list(dict.fromkeys(image_ids))
    found = _read_files(files, wanted, skip) if cache is None else _read_through_cache(files, wanted, cache, skip)
    if not allow_missing:
        for image_id in wanted:
            if image_id not in found:
                names = ", ".join(path.name for path in files)
                raise ValueError(
                    f"{annotation_dir}: image {image_id} has no annotation; looked in {names}. "
                    "The list `images` of an instances file must have it"
                )
    return {image_id: found[image_id] for image_id in wanted if image_id in found}


def _read_files(files: Sequence[Path], image_ids: Sequence[int], skip: Skip) -> dict[int, ImageAnnotations]:
    wanted, found, listed = set(image_ids), {}, set()
    for path in files:
        named = None if skip is None else _naming(path, skip)
        try:
            listed |= _add_annotations(found, path, wanted, named)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: expected COCO's format, but {_in_words(error)}") from error
    return {image_id: entry for image_id, entry in found.items() if image_id in listed}


def _naming(path: Path, skip: Callable[[str], object]) -> Callable[[str], object]:
    return lambda problem: skip(f"{path}: {problem}")


def _add_annotations(found: dict[int, ImageAnnotations], path: Path, wanted: set[int], skip: Skip = None) -> set[int]:
    """Add what one file says of the wanted images, a row in memory at a time.

    Returns: those of the images that it lists, if it is an instances file.
    """
    with_captions = path.name.startswith("captions_")
    names: dict[int, str] = {}
    category_ids: dict[int, set[int]] = {}
    listed: set[int] = set()
    has_list = False
    for key, row, item in read_rows(path, ("annotations",) if with_captions else INSTANCES, skip):
        has_list |= key == "annotations"
        if not row:
            continue
        try:
            if key == "categories":
                names[whole_id(item["id"])] = _string(item, "name")
            elif key == "images":
                if (image_id := whole_id(item["id"])) in wanted:
                    listed.add(image_id)
            elif key == "annotations" and (image_id := whole_id(item["image_id"], "image_id")) in wanted:
                if with_captions:
                    found.setdefault(image_id, ImageAnnotations()).captions.append(_string(item, "caption"))
                else:
                    category_ids.setdefault(image_id, set()).add(whole_id(item["category_id"], "category_id"))
        except (ValueError, KeyError, TypeError) as error:
            refuse(f"{in_list(key, row)}: {_in_words(error)}", skip)
    if not has_list:
        raise ValueError("there is no list `annotations`")
    for image_id in listed:
        found.setdefault(image_id, ImageAnnotations())
    while category_ids:  # sets of names take the place of sets of ids, so that there is one of them at a time
        image_id, own = category_ids.popitem()
        if unknown := own - names.keys():
            raise ValueError(f"image {image_id} has category {min(unknown)}, which is not in its list `categories`")
        found.setdefault(image_id, ImageAnnotations()).categories.update(names[category] for category in own)
    return listed


def _in_words(error: Exception) -> str:
    """What is wrong with a row: a key that it lacks, or what was raised."""
    return f"no `{error.args[0]}`" if isinstance(error, KeyError) else str(error)


def _string(item: dict, key: str) -> str:
    if not isinstance(item[key], str):
        raise TypeError(f"{key} is {item[key]!r}, not a string")
    return item[key]


def _read_through_cache(
    files: Sequence[Path], image_ids: Sequence[int], cache: Path, skip: Skip
) -> dict[int, ImageAnnotations]:
    team, found = processes(), None
    if team.is_main:
        key = {"rules": RULES, **{path.name: sha256(path) for path in files}}
        if not _holds(cache, key, image_ids):
            skipped: list[str] = []
            found = _read_files(files, image_ids, skip and (lambda problem: (skipped.append(problem), skip(problem))))
            _write_cache(cache, {} if skipped else key, image_ids, found)  # for the other processes alone
    team.wait()
    return _kept_in(read_json(cache), image_ids) if found is None else found


def _write_cache(
    cache: Path, key: dict[str, str], image_ids: Sequence[int], found: Mapping[int, ImageAnnotations]
) -> None:
    images = {
        str(image_id): {"categories": sorted(found[image_id].categories), "captions": found[image_id].captions}
        if image_id in found
        else None  # no annotation: known to be missing
        for image_id in image_ids
    }
    if cache.is_file() and _is_damaged_cache(cache.read_bytes()):
        cache.unlink()
    write_text(cache, json.dumps({"files": key, "images": images}, ensure_ascii=False) + "\n")


def _is_damaged_cache(content: bytes) -> bool:
    """Whether the content of a file is empty or begins as a cache does; others' files are left alone."""
    begins = b'{"files"'
    return content.startswith(begins) or begins.startswith(content) or content.strip() in (b"[]", b"{}")


def _kept_in(content: Mapping[str, Any], image_ids: Sequence[int]) -> dict[int, ImageAnnotations]:
    kept = {image_id: content["images"][str(image_id)] for image_id in image_ids}
    return {
        image_id: ImageAnnotations(set(entry["categories"]), entry["captions"])
        for image_id, entry in kept.items()
        if entry is not None
    }


def _holds(cache: Path, key: dict[str, str], image_ids: Sequence[int]) -> bool:
    """Whether a cache file was made from the files that `key` describes, and knows all the images."""
    try:
        content = read_json(cache)
        _kept_in(content, image_ids)
        return content["files"] == key
    except (OSError, ValueError, KeyError, TypeError):
        return False


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


def load_objects(
    jsonl: str | Path,
    read_id: Callable[[object], Any] = whole_id,
    category_of: Callable[[str], str | None] = str,
    skip: Skip = None,
) -> dict[Any, set[str]]:
    """Read ground truth of one's own: JSON lines with `image_id` and `objects`, a list of names.

    Args:
        read_id: makes the id of an image of what a row has; ValueError for what is none.
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
            image_id, found = read_id(row["image_id"]), set()
            for name in _names(row["objects"]):
                category = category_of(name)
                if category is None:
                    raise ValueError(f"object {name!r:.80} is no category, and no synonym of one")
                found.add(category)
            if image_id in objects:
                raise ValueError(f"image {image_id} has a row already; expected one row an image")
            objects[image_id] = found
        except ValueError as error:
            refuse(f"{path}, row {number}: {error}", skip)
        except (KeyError, TypeError) as error:
            expected = "expected `image_id` and `objects`, a list of names"
            refuse(f"{path}, row {number}: {expected}; {_in_words(error)}", skip)
    if not objects:
        raise ValueError(f"{path}: no row there; expected at least one")
    return objects


def _names(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError(f"objects is {value!r:.80}")
    return value


def refuse_repeats(path: Path, image_ids: Iterable[int | str]) -> None:
    """Raise ValueError, naming the file, where an image id comes a second time."""
    seen: set[int | str] = set()
    for image_id in image_ids:
        if image_id in seen:
            raise ValueError(f"{path}: image {image_id} is listed twice; expected each image once")
        seen.add(image_id)


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
