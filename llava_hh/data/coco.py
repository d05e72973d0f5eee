"""COCO's files as plain records: image lists, the seeded sample, instance and caption annotations."""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava_hh.data.json_lists import read_lists
from llava_hh.files import read_json, read_json_lines, refuse_pointer, sha256, write_text
from llava_hh.runs import processes


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
    try:
        lists = [(key, item) for key, item in read_lists(path) if key == "images"]
        images = [item for _, item in lists if item is not None]
        records = [{"image_id": int(image["id"]), "file_name": str(image["file_name"])} for image in images]
        if not lists:
            raise KeyError("images")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected JSON with a list `images` of objects with `id` and `file_name`") from error
    refuse_repeats(path, [record["image_id"] for record in records])
    return records


def sample_images(images: Sequence[Mapping[str, Any]], n: int | None, seed: int = 42) -> list[dict[str, Any]]:
    """Return `n` of `images` in the order in which they were drawn, the paper's way.

    The paper draws `random.seed(42); random.sample(ids, n)` from the ids in the order of the captions file's list
    `images`, so the same file, n and seed give the paper's images. With n None, or larger than the list, nothing is
    drawn: all images, in file order.

    Raises:
        ValueError: a negative n.
    """
    if n is not None and n < 0:
        raise ValueError(f"number of images {n}: expected 0 or more")
    if n is None or n > len(images):
        return [dict(image) for image in images]
    return [dict(image) for image in random.Random(seed).sample(list(images), n)]


def load_annotations(
    annotation_dir: str | Path,
    image_ids: Iterable[int],
    splits: Sequence[str] | None = None,
    allow_missing: bool = False,
    cache: Path | None = None,
) -> dict[int, ImageAnnotations]:
    """Read captions_{split}.json and instances_{split}.json, restricted to `image_ids`.

    Args:
        splits: such as ("train2014", "val2014"); None takes every split that has a file in the folder.
        allow_missing: leave out an image without any annotation, where it would be an error.
        cache: a JSON file, best in the result folder, that keeps what was read: COCO's files take a minute to
            parse. It is used as long as COCO's files are the same and hold the images; of several
            processes only the first parses.
    Raises:
        FileNotFoundError: the folder, or one of a split's two files, is missing.
        ValueError: a file isn't COCO's format, or an image has no annotation in any of the files.
    """
    files = annotation_files(annotation_dir, splits)
    wanted = list(dict.fromkeys(image_ids))
    found = _read_files(files, wanted) if cache is None else _read_through_cache(files, wanted, cache)
    if not allow_missing:
        for image_id in wanted:
            if image_id not in found:
                names = ", ".join(path.name for path in files)
                raise ValueError(f"{annotation_dir}: image {image_id} has no annotation; looked in {names}")
    return {image_id: found[image_id] for image_id in wanted if image_id in found}


def _read_files(files: Sequence[Path], image_ids: Sequence[int]) -> dict[int, ImageAnnotations]:
    wanted, found = set(image_ids), {}
    for path in files:
        try:
            _add_annotations(found, path, wanted)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: expected COCO's format, but reading it failed with {error!r}") from error
    return found


def _add_annotations(found: dict[int, ImageAnnotations], path: Path, wanted: set[int]) -> None:
    """Add what one file says of the wanted images, a row in memory at a time."""
    with_captions = path.name.startswith("captions_")
    names: dict[int, str] = {}
    category_ids: dict[int, set[int]] = {}
    has_list = False
    for key, item in read_lists(path):
        has_list |= key == "annotations"
        if item is None:
            continue
        if key == "categories":
            names[item["id"]] = _string(item, "name")
        elif key == "annotations":
            image_id = item["image_id"]
            if image_id in wanted:
                if with_captions:
                    found.setdefault(image_id, ImageAnnotations()).captions.append(_string(item, "caption"))
                else:
                    category_ids.setdefault(image_id, set()).add(item["category_id"])
    if not has_list:
        raise ValueError("no list `annotations`")
    while category_ids:  # sets of names take the place of sets of ids, so that there is one of them at a time
        image_id, own = category_ids.popitem()
        found.setdefault(image_id, ImageAnnotations()).categories.update(names[category] for category in own)


def _string(item: dict, key: str) -> str:
    if not isinstance(item[key], str):
        raise TypeError(f"{key} is {item[key]!r}, not a string")
    return item[key]


def _read_through_cache(files: Sequence[Path], image_ids: Sequence[int], cache: Path) -> dict[int, ImageAnnotations]:
    team, found = processes(), None
    if team.is_main:
        key = {path.name: sha256(path) for path in files}
        if not _holds(cache, key, image_ids):
            found = _read_files(files, image_ids)
            _write_cache(cache, key, image_ids, found)
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


def load_objects(jsonl: str | Path) -> dict[int, set[str]]:
    """Read ground truth of one's own: JSON lines with `image_id` and `objects`, a list of COCO categories.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row of another form, or a second row for an image; file and row (from 1) are named.
    """
    path = Path(jsonl)
    objects: dict[int, set[str]] = {}
    for number, row in read_json_lines(path, "JSON lines with `image_id` and `objects`"):
        try:
            image_id, names = int(row["image_id"]), row["objects"]
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise TypeError("objects")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, row {number}: expected `image_id` and `objects`, a list of names") from error
        if image_id in objects:
            raise ValueError(f"{path}, row {number}: image {image_id} has a row already; expected one row an image")
        objects[image_id] = set(names)
    return objects


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
