"""Where COCO's instances are in their pictures: which cells of a grid each object touches."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from llava_hh.data.coco import FIELDS, INSTANCES, annotation_files
from llava_hh.data.rows import FAULTS, in_words, text_of
from llava_hh.files.ids import whole_id
from llava_hh.files.json_lists import in_list, read_rows
from llava_hh.models.image_grid import ImageGrid

Outline = list[float]  # x and y in turn, in pixels
Shapes = dict[str, list[Outline]]  # by category
FINE = 16  # a cell is this many pixels of what is drawn, to see what it touches


def load_shapes(annotation_dir: str | Path, image_ids: Iterable[int]) -> dict[int, Shapes]:
    """The outlines of all objects of images, by category: polygons, or where an instance has none, its box.

    Raises:
        FileNotFoundError: no such folder or files in it.
        ValueError: a file isn't COCO's format.
    """
    names: dict[int, str] = {}
    found: dict[int, list[tuple[int, Outline]]] = {image_id: [] for image_id in image_ids}
    for path in annotation_files(annotation_dir):
        for key, row, item in _rows_of(path) if path.name.startswith("instances_") else ():
            try:
                if row and key == "categories":
                    names[whole_id(item["id"])] = text_of(item, "name")
                elif row and key == "annotations" and (image_id := whole_id(item["image_id"])) in found:
                    category = whole_id(item["category_id"])
                    found[image_id] += [(category, outline) for outline in _outlines(item)]
            except FAULTS as error:
                raise ValueError(f"{path}: {in_list(key, row)}: {in_words(error)}") from None
    shapes: dict[int, Shapes] = {}
    for image_id, outlines in found.items():
        for category, outline in outlines:
            if category not in names:
                raise ValueError(
                    f"{annotation_dir}: image {image_id} has an instance of category {category}, not listed"
                )
            shapes.setdefault(image_id, {}).setdefault(names[category], []).append(outline)
    return shapes


def _rows_of(path: Path) -> Iterator[tuple[str, int, Any]]:
    try:
        yield from read_rows(path, INSTANCES, fields=(*FIELDS, "segmentation", "bbox"))
    except ValueError as error:
        raise ValueError(f"{path}: expected COCO's format, but {in_words(error)}") from error


def _outlines(item: dict) -> list[Outline]:
    polygons = item.get("segmentation")
    if isinstance(polygons, list) and polygons:
        if any(len(polygon) % 2 or len(polygon) < 4 for polygon in polygons):
            raise ValueError("a polygon is a list of x and y in turn, of two corners at least")
        return [[float(value) for value in polygon] for polygon in polygons]
    x, y, width, height = (float(value) for value in item["bbox"])
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def touched_cells(outlines: Sequence[Outline], size: tuple[int, int], grid: ImageGrid) -> np.ndarray:
    """Which cells of a grid some outline touches, (row * column,) bool, row by row.

    Args:
        size: width and height of the picture in pixels.
    """
    left, top, right, bottom = grid.box
    drawn = Image.new("1", (grid.columns * FINE, grid.rows * FINE))
    for outline in outlines:
        corners = [
            (
                (x / size[0] - left) / (right - left) * grid.columns * FINE,
                (y / size[1] - top) / (bottom - top) * grid.rows * FINE,
            )
            for x, y in zip(outline[::2], outline[1::2], strict=True)
        ]
        ImageDraw.Draw(drawn).polygon(corners, fill=1)
    return np.array(drawn).reshape(grid.rows, FINE, grid.columns, FINE).any((1, 3)).reshape(-1)
