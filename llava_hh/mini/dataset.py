"""mini's three disjoint sets as COCO 2014-format images, captions and instances; the same bytes every time."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

from llava_hh.data.instruct import IMAGE_MARK
from llava_hh.files.files import read_any_json, write_json, write_text
from llava_hh.files.progress import progress
from llava_hh.mini.world import CATEGORIES, IMAGE_PIXELS, caption, render, sample_scene
from llava_hh.models.lvlm import DESCRIBE

CAPTIONS_PER_IMAGE = 5


@dataclass(frozen=True)
class Split:
    """`together`, `unseen`: see world.sample_scene. Image ids start at `first_id`, so no id stands in two sets."""

    name: str
    size: int
    first_id: int
    together: float
    unseen: float = 0.0


SPLITS = (
    Split("tune", size=3000, first_id=1_000_000, together=0.9, unseen=0.3),  # instruction tuning
    Split("train2014", size=800, first_id=2_000_000, together=0.45),  # attribution; every choice of top_k or threshold
    Split("val2014", size=600, first_id=3_000_000, together=0.45),  # reporting only
)


def write_split(split: Split, folder: Path) -> None:
    """Write `folder/<split>/COCO_<split>_<id>.jpg` and `folder/annotations/{captions,instances}_<split>.json`.

    The annotation files are written last: a set that has them is complete.
    """
    rng, pictures = random.Random(split.first_id), folder / split.name
    pictures.mkdir(parents=True, exist_ok=True)
    images, captions, instances = [], [], []
    for image_id in progress(f"mini {split.name}", "image", range(split.first_id, split.first_id + split.size)):
        scene = sample_scene(rng, split.together, split.unseen)
        picture, boxes = render(scene, rng)
        file_name = f"COCO_{split.name}_{image_id:012d}.jpg"
        picture.save(pictures / file_name, quality=92)
        images.append({"id": image_id, "file_name": file_name, "width": IMAGE_PIXELS, "height": IMAGE_PIXELS})
        for _ in range(CAPTIONS_PER_IMAGE):
            captions.append({"id": len(captions) + 1, "image_id": image_id, "caption": caption(scene, rng)})
        for category, box in zip(scene.shown, boxes, strict=True):
            shown = {"image_id": image_id, "category_id": CATEGORIES.index(category) + 1, "bbox": [*box]}
            instances.append({"id": len(instances) + 1, **shown, "area": box[2] * box[3], "iscrowd": 0})
    description = f"mini, drawn scenes, {split.name}"
    info = {"description": description, "partners_together": split.together, "unseen": split.unseen}
    categories = [{"id": number, "name": name} for number, name in enumerate(CATEGORIES, 1)]
    for kind, rows, more in (("instances", instances, {"categories": categories}), ("captions", captions, {})):
        content = {"info": info, "images": images, "annotations": rows, **more}
        write_json(folder / "annotations" / f"{kind}_{split.name}.json", content)


def write_instructions(folder: Path, split: str) -> None:
    """Write `folder/instruct_<split>.json`: every image with its first caption, laid out as llava_v1_5_mix665k.json."""
    written = json.loads((folder / "annotations" / f"captions_{split}.json").read_text(encoding="utf-8"))
    first = {row["image_id"]: row["caption"] for row in reversed(written["annotations"])}
    rows, question = [], {"from": "human", "value": f"{IMAGE_MARK}\n{DESCRIBE}"}
    for image in written["images"]:
        turns = [question, {"from": "gpt", "value": first[image["id"]]}]
        rows.append({"id": str(image["id"]), "image": f"{split}/{image['file_name']}", "conversations": turns})
    path, text = folder / f"instruct_{split}.json", json.dumps(rows, indent=1) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def write_missing_splits(folder: Path) -> None:
    """Write the sets that `folder` lacks, or has in another size or make than SPLITS says, and the instructions.

    Raises:
        FileExistsError: an annotation file of one of these names is not mini's.
    """
    for split in SPLITS:
        files = [folder / "annotations" / f"{kind}_{split.name}.json" for kind in ("captions", "instances")]
        makes = [_make_of(path) for path in files if path.exists()]
        if makes == [(split.size, split.together, split.unseen)] * len(files):
            continue
        for path in (*files, folder / f"instruct_{split.name}.json") if makes else ():
            path.unlink(missing_ok=True)
        write_split(split, folder)
    if not (folder / f"instruct_{SPLITS[0].name}.json").exists():
        write_instructions(folder, SPLITS[0].name)


def _make_of(path: Path) -> tuple[int, float, float]:
    """The number of images in an annotation file of mini, and how they were drawn."""
    content = read_any_json(path)
    try:
        return len(content["images"]), content["info"]["partners_together"], content["info"]["unseen"]
    except (KeyError, TypeError):
        raise FileExistsError(f"{path}: is there already and not mini's; choose another --data") from None
