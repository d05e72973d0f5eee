"""Flags of the harness on the tiny checkpoint, and the tokens that it wrote."""

import json
from pathlib import Path

HEADS = [[3, 1], [0, 2], [2, 2]]
N_TOKENS = 8
VCD, ADHH = "vcd_paper:alpha=2,noise_step=999", "adhh:top_k=2,threshold=0.05"


def flags_for(checkpoint: Path, coco: Path, folder: Path) -> list[str]:
    """All flags but --methods and --out; the head list is written into the folder."""
    heads = folder / "heads.json"
    heads.write_text(json.dumps({"hal_heads": HEADS}))
    flags = ["--model", checkpoint, "--image-folder", coco / "val2014", "--annotations", coco / "annotations"]
    flags += ["--heads", heads, "--limit", 6, "--max-new-tokens", N_TOKENS, "--batch-size", 2]
    return [str(flag) for flag in flags]


def token_ids(folder: Path) -> list[list[int]]:
    return [json.loads(line)["token_ids"] for line in (folder / "captions.jsonl").read_text().splitlines()]
