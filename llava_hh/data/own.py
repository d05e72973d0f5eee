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
        ValueError: a folder without images, or two images of one name.
    """
    if not paths:
        raise ValueError("--images: none are named")
    found: dict[str, Path] = {}
    for path in (image for given in paths for image in _images_at(given)):
        if path.name in found:
            both = f"{found[path.name]} and {path}"
            raise ValueError(f"--images: {both} have one name, which is the image's id; rename one")
        found[path.name] = path
    parents = {path.parent for path in found.values()}
    around = (
        parents.pop() if len(parents) == 1 else Path(os.path.commonpath([os.path.abspath(each) for each in parents]))
    )
    names = {name: os.path.relpath(os.path.abspath(path), os.path.abspath(around)) for name, path in found.items()}
    return around, [{"image_id": number_or_text(name), "file_name": below} for name, below in names.items()]


def _images_at(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f"--images {path}: no such file or folder")
    if not path.is_dir():
        return [path]
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS}
    files = [file for file in sorted(path.iterdir()) if file.suffix.lower() in endings and file.name[0] != "."]
    if not files:
        raise ValueError(f"--images {path}: no image in this folder; expected files such as photo.jpg")
    return files


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
        return {
            read_id(image_id): _said(f"objects of {image_id}", names, category_of)
            for image_id, names in objects.items()
        }
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
