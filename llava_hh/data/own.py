"""Images of one's own, in any folders, and what is in them by one's own word."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from llava_hh.data.coco import categories_of, load_objects
from llava_hh.data.rows import existing_file, texts_of
from llava_hh.files.files import Skip, read_json
from llava_hh.files.ids import number_or_text
from llava_hh.files.images import FORMATS


def names_in(text: str) -> list[str]:
    """The names of a text with commas between them."""
    return [name.strip() for name in text.split(",") if name.strip()]


def own_images(paths: Sequence[Path]) -> tuple[Path, list[dict[str, Any]]]:
    """The nearest folder around the images, and `image_id` and `file_name` (below that folder) of each.

    An image's id is its file's name. A folder stands for the image files in it, by name; folders below are left out.

    Raises:
        FileNotFoundError: a path that is not there.
        ValueError: a folder without images, or two images of one id.
    """
    if not paths:
        raise ValueError("--images: none are named")
    found: dict[str | int, Path] = {}
    for path in (image for given in paths for image in _images_at(given)):
        image_id = number_or_text(path.name)
        if image_id in found:
            both = f"{found[image_id]} and {path}"
            raise ValueError(f"--images: {both} have one name, which is the image's id; rename one, or name it once")
        found[image_id] = path
    # what a folder's links lead to, before `..` is taken: as the system reads a path
    real = {image_id: os.path.join(os.path.realpath(path.parent), path.name) for image_id, path in found.items()}
    around = os.path.commonpath([os.path.dirname(path) for path in real.values()])
    return Path(around), [{"image_id": key, "file_name": os.path.relpath(path, around)} for key, path in real.items()]


def _images_at(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f"--images {path}: no such file or folder")
    if not path.is_dir():
        return [path]
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS}
    named = [file for file in sorted(path.iterdir()) if file.suffix.lower() in endings and file.name[0] != "."]
    files = [file for file in named if not file.is_dir()]
    if not files:
        raise ValueError(f"--images {path}: no image in this folder; expected files such as photo.jpg")
    return files


def folder_name(photo: Path) -> str:
    """What a folder of results about a photo, or a folder of photos, is called."""
    name = photo if photo.stem.strip(".") else photo.resolve()
    return name.stem if name.stem.strip(".") else "image"


def load_vocabulary(path: Path) -> dict[str, list[str]]:
    """Objects of one's own: a JSON object from each category to the words that stand for it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another form; names the category.
    """
    content = read_json(existing_file(path, 'JSON such as {"beaker": ["glass", "flask"]}'))
    for category in content:
        try:
            texts_of(content, category)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    return content


def own_objects(
    objects: Path | Mapping[str, Sequence[str]] | None,
    truth: str | None,
    image_ids: Iterable[Any],
    category_of: Callable[[str], str | None],
    read_id: Callable[[object], Any] = number_or_text,
    skip: Skip = None,
) -> dict[Any, set[str]]:
    """What is in images, by their ids, as a user says it.

    Args:
        objects: JSON lines with `image_id` and `objects`, or names by id; truth: or names, with commas, of what is in
            the only image.
        category_of: the category that a name stands for, None where there is none.
        read_id, skip: as in `load_objects`.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row of another form, a name of no category, or names for several images.
    """
    if isinstance(objects, Mapping):
        said: dict[Any, set[str]] = {}
        for name, names in objects.items():
            if (image_id := read_id(name)) in said:
                raise ValueError(f"objects: {name!r} and another name are one image, {image_id!r}")
            said[image_id] = _said(f"objects of {name}", names, category_of)
        return said
    if objects is not None:
        return load_objects(objects, read_id, category_of, skip)
    if len(ids := {*image_ids}) != 1:
        raise ValueError(f"--truth is for one image, here are {len(ids)}; give --objects, a row for each")
    if not (names := names_in(truth or "")):
        raise ValueError(
            f"--truth {truth!r}: no name in it; for an image without objects give --objects, a row with none"
        )
    return {image_id: _said("--truth", names, category_of) for image_id in ids}


def _said(where: str, names: Any, category_of: Callable[[str], str | None]) -> set[str]:
    if not isinstance(names, list | tuple | set | frozenset) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where}: {names!r:.80}; expected a list of names")
    try:
        return categories_of(names, category_of)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
