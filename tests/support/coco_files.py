"""A folder of COCO 2014-format annotations small enough to know by heart."""

import json
from collections.abc import Callable
from pathlib import Path

CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 6, "name": "bus"}]


def write_coco(folder: Path) -> Path:
    """Write annotations of train images 7 (nothing) and 1 (a dog; captions), and of val image 2 (a bus, no caption)."""
    captions = [{"image_id": 1, "caption": "A man and a dog."}, {"image_id": 1, "caption": "A hot dog stand."}]
    _write_split(folder, "train2014", [7, 1], captions, [{"image_id": 1, "category_id": 18}])
    _write_split(folder, "val2014", [2], [], [{"image_id": 2, "category_id": 6}] * 2)
    return folder


def _write_split(folder: Path, split: str, image_ids: list[int], captions: list[dict], instances: list[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    images = [{"id": image_id, "file_name": f"COCO_{split}_{image_id:012d}.jpg"} for image_id in image_ids]
    for kind, rows, more in (("captions", captions, {}), ("instances", instances, {"categories": CATEGORIES})):
        annotations = [{**row, "id": number} for number, row in enumerate(rows)]
        content = {"images": images, "annotations": annotations, **more}
        (folder / f"{kind}_{split}.json").write_text(json.dumps(content))


def write_truth(folder: Path, **change: Callable[[int], object]) -> Path:
    """Two images, a dog on a couch and a bus; `change` says how the ids in a list are written."""

    def written(name: str, rows: list[dict], *keys: str) -> list[dict]:
        return [{**row, **{key: change.get(name, int)(row[key]) for key in keys}} for row in rows]

    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}]
    boxes = [{"image_id": 1, "category_id": 18}, {"image_id": 2, "category_id": 6}]
    texts = [{"image_id": 1, "caption": "A pet on a couch."}, {"image_id": 2, "caption": "A street."}]
    instances = {
        "images": written("images", images, "id"),
        "annotations": written("boxes", written("kinds", boxes, "category_id"), "image_id"),
        "categories": written("categories", [{"id": 18, "name": "dog"}, {"id": 6, "name": "bus"}], "id"),
    }
    captions = {
        "images": written("captioned", images, "id"),
        "annotations": written("texts", texts, "image_id"),
    }
    folder.mkdir()
    for name, content in (("instances", instances), ("captions", captions)):
        (folder / f"{name}_val2014.json").write_text(json.dumps(content))
    return folder
