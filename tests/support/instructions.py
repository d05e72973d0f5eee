"""Conversations about images of a COCO-format set, for trainings of tests."""

import json
from pathlib import Path

from llava_hh.models.questions import DESCRIBE

HEADS = [[3, 1], [0, 2], [3, 2], [2, 0]]  # of the list that is trained
N_STEPS = 6


def write_instructions(folder: Path, split: str) -> None:
    """Write `folder/instruct_<split>.json`: every image with its first caption, laid out as llava_v1_5_mix665k.json."""
    written = json.loads((folder / "annotations" / f"captions_{split}.json").read_text(encoding="utf-8"))
    first = {row["image_id"]: row["caption"] for row in reversed(written["annotations"])}
    rows, question = [], {"from": "human", "value": f"<image>\n{DESCRIBE}"}
    for image in written["images"]:
        turns = [question, {"from": "gpt", "value": first[image["id"]]}]
        rows.append({"id": str(image["id"]), "image": f"{split}/{image['file_name']}", "conversations": turns})
    (folder / f"instruct_{split}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
