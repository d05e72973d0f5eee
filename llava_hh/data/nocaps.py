"""nocaps' files as the same records as COCO's: image lists by domain, labels and reference captions of each image.

An image is known by its Open Images id, 16 hexadecimal digits, which is its file's name too. Two layouts are read:

- official: nocaps' captions file, and of Open Images the human-verified image-level labels of the validation set, its
  boxes if they are there, and the names of the classes;
- collected: `nocaps_<domain>_collected_gt.json`, in which the paper's authors put the same together. Where there is
  one, ground truth comes from it, so that numbers can be compared with theirs.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from llava_hh.data.coco import ImageAnnotations
from llava_hh.data.rows import existing_file, read_list, refuse_repeats, text_of, texts_of
from llava_hh.files.files import Skip
from llava_hh.files.ids import whole_id

DOMAINS = ("in-domain", "near-domain", "out-domain")
CAPTIONS = "nocaps_val_4500_captions.json"
COLLECTED = "nocaps_{domain}_collected_gt.json"
CLASS_NAMES = "*class-descriptions*.csv"
IMAGE_LABELS = "*human-imagelabels*.csv"
BOXES = "*annotations-bbox.csv"
_ID = re.compile(r"[0-9a-f]{16}")
_COLUMNS = ("ImageID", "LabelName", "Confidence")


def image_id_of(name: object) -> str:
    """Return the Open Images id in a text: an id, or the name of a file such as "val/0013ea2087020901.jpg".

    Raises:
        ValueError: there is none.
    """
    stem = Path(name).stem if isinstance(name, str) else ""
    if not _ID.fullmatch(stem):
        raise ValueError(f"{name!r} is no Open Images id (16 hexadecimal digits) and no file named by one")
    return stem


def load_image_list(annotation_dir: str | Path, domain: str = "out-domain") -> list[dict[str, Any]]:
    """Return the images of a domain as {"image_id", "file_name", "question_id"}, in the order of the captions file.

    `question_id` is nocaps' own number of the image. Without the captions file the list is that of the collected ground
    truth, which has the same order, and no such numbers.

    Raises:
        FileNotFoundError: neither file is there.
        ValueError: an unknown domain, a file of another form, an image listed twice, or no image of the domain.
    """
    if domain not in DOMAINS:
        raise ValueError(f"{domain!r} is no domain of nocaps; expected one of: {', '.join(DOMAINS)}")
    folder = Path(annotation_dir)
    path = folder / CAPTIONS
    if path.is_file():
        images = [record for record, its_domain in _read_images(path) if its_domain == domain]
    else:
        path = existing_file(folder / COLLECTED.format(domain=domain), f"it, or {CAPTIONS}, in this folder")
        images = [{"image_id": image_id, "file_name": f"{image_id}.jpg"} for image_id, _ in _read_collected(path)]
    if not images:
        raise ValueError(f"{path}: no image of the domain {domain}")
    refuse_repeats(path, (image["image_id"] for image in images))
    return images


def load_annotations(
    annotation_dir: str | Path, image_ids: Iterable[str], allow_missing: bool = False, skip: Skip = None
) -> dict[str, ImageAnnotations]:
    """Return labels (`categories`, such as "Tin can") and reference captions of these images.

    Args:
        allow_missing: leave out an image that the files don't have, where it would be an error.
        skip: takes one line for each bad row, which is left out; None: it is an error.
    Raises:
        FileNotFoundError: no folder, or files of neither layout in it.
        ValueError: a file of another form (named with the row, from 1), labels of none of the images, or an image that
            the files don't have.
    """
    files = annotation_files(annotation_dir)
    wanted = list(dict.fromkeys(image_ids))
    if files[0].name == CAPTIONS:
        annotations = _read_official(files, wanted, skip)
    else:
        annotations = {}
        for path in files:
            rows = _read_collected(path, skip)
            refuse_repeats(path, (image_id for image_id, _ in rows))
            annotations |= dict(rows)
    if not allow_missing and (missing := [image_id for image_id in wanted if image_id not in annotations]):
        names = ", ".join(path.name for path in files)
        raise ValueError(f"{annotation_dir}: image {missing[0]} has no ground truth; looked in {names}")
    return {image_id: annotations[image_id] for image_id in wanted if image_id in annotations}


def annotation_files(annotation_dir: str | Path) -> list[Path]:
    """Return the files that ground truth is read from: the collected ones, or else the official ones, captions first.

    Raises:
        FileNotFoundError: no folder, or files of neither layout in it.
    """
    folder = Path(annotation_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected nocaps' annotations in it")
    collected = [folder / COLLECTED.format(domain=domain) for domain in DOMAINS]
    if files := [path for path in collected if path.is_file()]:
        return files
    official = {pattern: sorted(folder.glob(pattern)) for pattern in (CAPTIONS, CLASS_NAMES, IMAGE_LABELS, BOXES)}
    for pattern, paths in official.items():
        if not paths and pattern != BOXES:
            raise FileNotFoundError(
                f"{folder}: no {pattern} there; expected {CAPTIONS}, {CLASS_NAMES} and {IMAGE_LABELS}, "
                f"or {COLLECTED.format(domain='<domain>')}"
            )
    return [path for paths in official.values() for path in paths]


def _read_official(files: Sequence[Path], image_ids: Sequence[str], skip: Skip) -> dict[str, ImageAnnotations]:
    path, *tables = files
    id_of = {record["question_id"]: record["image_id"] for record, _ in _read_images(path, skip)}
    present = set(id_of.values())
    annotations = {image_id: ImageAnnotations() for image_id in image_ids if image_id in present}

    def add_caption(row: dict) -> None:
        number, caption = whole_id(row["image_id"], "image_id"), text_of(row, "caption")
        if number not in id_of:
            raise ValueError(f"image_id {number} is not in `images`")
        if id_of[number] in annotations:
            annotations[id_of[number]].captions.append(caption)

    read_list(path, "annotations", add_caption, "`image_id` and `caption`", skip)
    class_tables = [table for table in tables if table.match(CLASS_NAMES)]
    names = {code: name for table in class_tables for code, name in _read_class_names(table).items()}
    label_tables = [table for table in tables if table not in class_tables]
    for table in label_tables:
        _add_labels(table, names, annotations)
    if annotations and not any(entry.categories for entry in annotations.values()):
        labels, number = ", ".join(table.name for table in label_tables), len(annotations)
        raise ValueError(f"{path.parent}: no label of any of {number} images in {labels}; expected validation's")
    return annotations


def _read_class_names(path: Path) -> dict[str, str]:
    """From Open Images' codes ("/m/02jnhm") to names ("Tin can"); some versions of the file have a header."""
    names = {}
    for number, row in _read_table(path):
        if len(row) == 1:
            raise ValueError(f"{path}, row {number}: expected a class's code and its name")
        if row and row[0].startswith("/"):
            names[row[0]] = row[1]
    return names


def _add_labels(path: Path, names: dict[str, str], annotations: dict[str, ImageAnnotations]) -> None:
    """Add the labels of a table of image-level labels or boxes: those that are there, of confidence 1."""
    rows = _read_table(path)
    _, heads = next(rows, (1, []))
    if not set(_COLUMNS) <= set(heads):
        raise ValueError(f"{path}, row 1: expected Open Images' columns, {', '.join(_COLUMNS)} among them")
    for number, cells in rows:
        where = f"{path}, row {number}"
        image_id, label, confidence = map(dict(zip(heads, cells, strict=False)).get, _COLUMNS)
        if image_id not in annotations:
            continue
        if confidence not in ("0", "1", "0.0", "1.0"):
            raise ValueError(f"{where}: Confidence is {confidence!r}; expected 0 or 1, as humans verified it")
        if label not in names:
            raise ValueError(f"{where}: label {label!r} has no name in any {CLASS_NAMES} beside it")
        if float(confidence) == 1:
            annotations[image_id].categories.add(names[label])


def _read_table(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file with their numbers, from 1; ValueError, with the row, where it is no table in UTF-8."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader, number = csv.reader(file), 0
        try:
            for row in reader:
                number = reader.line_num
                yield number, row
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path}, row {number + 1}: not a table in UTF-8 ({error})") from None


def _read_images(path: Path, skip: Skip = None) -> list[tuple[dict[str, Any], str]]:
    """The images of a captions file, each with its domain."""

    def read(row: dict) -> tuple[dict[str, Any], str]:
        record = {"image_id": image_id_of(row["open_images_id"]), "file_name": text_of(row, "file_name")}
        return {**record, "question_id": whole_id(row["id"])}, text_of(row, "domain")

    return read_list(path, "images", read, "`id`, `open_images_id`, `file_name` and `domain`", skip)


def _read_collected(path: Path, skip: Skip = None) -> list[tuple[str, ImageAnnotations]]:
    def read(row: dict) -> tuple[str, ImageAnnotations]:
        labels, captions = texts_of(row, "labels"), texts_of(row, "human_captions")
        return image_id_of(row["image_id"]), ImageAnnotations(set(labels), captions)

    return read_list(path, "", read, "`image_id`, `labels` and `human_captions`", skip)
