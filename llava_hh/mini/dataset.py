"""mini's three disjoint sets as COCO 2014-format images, captions and instances; the same bytes every time.

The tuning set has a conversation about each image as well.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

from llava_hh.data.instruct import IMAGE_MARK
from llava_hh.files.files import read_any_json, write_json, write_text
from llava_hh.files.progress import progress
from llava_hh.mini.talk import Turn, caption, conversation
from llava_hh.mini.world import CATEGORIES, IMAGE_PIXELS, render, sample_scene

CAPTIONS_PER_IMAGE = 5
WORLD = 3  # another number where scenes or what is said of them have changed


@dataclass(frozen=True)
class Split:
    """`together`, `hard`: see world.sample_scene. Image ids start at `first_id`, so no id stands in two sets."""

    name: str
    size: int
    first_id: int
    together: float
    hard: float = 0.0
    is_told: bool = False

    @property
    def make(self) -> dict[str, float]:
        """What its annotation files say of how it was drawn."""
        return {"world": WORLD, "partners_together": self.together, "hard_to_see": self.hard}


SPLITS = (
    Split("tune", size=3000, first_id=1_000_000, together=0.9, hard=0.6, is_told=True),  # instruction tuning
    Split("train2014", size=800, first_id=2_000_000, together=0.45),  # attribution; every choice of top_k or threshold
    Split("val2014", size=600, first_id=3_000_000, together=0.45),  # reporting only
)


def write_split(split: Split, folder: Path) -> None:
    """Write `folder/<split>/COCO_<split>_<id>.jpg` and `folder/annotations/{captions,instances}_<split>.json`.

    Where the split is told, `folder/instruct_<split>.json` has the conversations. The annotation files are written
    last: a set that has them is complete.
    """
    rng, pictures = random.Random(split.first_id), folder / split.name
    pictures.mkdir(parents=True, exist_ok=True)
    images, captions, instances, told = [], [], [], []
    for image_id in progress(f"mini {split.name}", "image", range(split.first_id, split.first_id + split.size)):
        scene = sample_scene(rng, split.together, split.hard)
        file_name = f"COCO_{split.name}_{image_id:012d}.jpg"
        render(scene, random.Random(image_id)).save(pictures / file_name, quality=92)
        images.append({"id": image_id, "file_name": file_name, "width": IMAGE_PIXELS, "height": IMAGE_PIXELS})
        for _ in range(CAPTIONS_PER_IMAGE):
            captions.append({"id": len(captions) + 1, "image_id": image_id, "caption": caption(scene, rng)})
        for category, box in scene.annotated():
            shown = {"image_id": image_id, "category_id": CATEGORIES.index(category) + 1, "bbox": [*box]}
            instances.append({"id": len(instances) + 1, **shown, "area": box[2] * box[3], "iscrowd": 0})
        if split.is_told:
            told.append(_row(f"{split.name}/{file_name}", image_id, conversation(scene, rng)))
    if split.is_told:
        write_text(folder / f"instruct_{split.name}.json", json.dumps(told, indent=1) + "\n")
    info = {"description": f"mini, drawn scenes, {split.name}", **split.make}
    categories = [{"id": number, "name": name} for number, name in enumerate(CATEGORIES, 1)]
    for kind, rows, more in (("instances", instances, {"categories": categories}), ("captions", captions, {})):
        content = {"info": info, "images": images, "annotations": rows, **more}
        write_json(folder / "annotations" / f"{kind}_{split.name}.json", content)


def _row(image: str, image_id: int, turns: list[Turn]) -> dict:
    """A conversation, laid out as in llava_v1_5_mix665k.json."""
    said = [part for turn in turns for part in zip(("human", "gpt"), turn, strict=True)]
    said[0] = ("human", f"{IMAGE_MARK}\n{said[0][1]}")
    return {"id": str(image_id), "image": image, "conversations": [{"from": who, "value": text} for who, text in said]}


def write_missing_splits(folder: Path) -> None:
    """Write the sets that `folder` lacks, or has in another size or make than SPLITS says.

    Raises:
        FileExistsError: an annotation file of one of these names is not mini's.
    """
    for split in SPLITS:
        files = [folder / "annotations" / f"{kind}_{split.name}.json" for kind in ("captions", "instances")]
        told = folder / f"instruct_{split.name}.json"
        makes = [_make_of(path) for path in files if path.exists()]
        if makes == [(split.size, split.make)] * len(files) and told.exists() >= split.is_told:
            continue
        for path in (*files, told) if makes else ():
            path.unlink(missing_ok=True)
        write_split(split, folder)


def _make_of(path: Path) -> tuple[int, dict[str, float]]:
    """The number of images in an annotation file of mini, and how they were drawn."""
    content = read_any_json(path)
    try:
        info = content["info"]
        if not info["description"].startswith("mini, "):
            raise KeyError("description")
        return len(content["images"]), {name: value for name, value in info.items() if name != "description"}
    except (KeyError, TypeError, AttributeError):
        raise FileExistsError(f"{path}: is there already and not mini's; choose another --data") from None
