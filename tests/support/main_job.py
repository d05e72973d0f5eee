"""Flags of captioning and attribution on the tiny data set, and a reader of what attribution writes."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

LENGTH = "10"


def caption_flags(checkpoint: Path, coco: Path, out: Path) -> list[str]:
    flags = ["--model", checkpoint, "--image-folder", coco / "train2014", "--annotations", coco / "annotations"]
    flags += ["--split", "train2014", "--out", out]
    return [str(flag) for flag in (*flags, "--max-new-tokens", LENGTH, "--batch-size", 2)]


def attribute_flags(checkpoint: Path, coco: Path, captions: Path, out: Path) -> list[str]:
    flags = ["--model", checkpoint, "--image-folder", coco / "train2014", "--captions", captions, "--out", out]
    return [str(flag) for flag in (*flags, "--list-length", 5, "--batch-size", 2)]


def read_attribution(folder: Path) -> tuple[dict, np.ndarray, dict[str, np.ndarray]]:
    """The result, whether each target is hallucinated, and its log-probabilities."""
    rows = [json.loads(line) for line in (folder / "targets.jsonl").read_text().splitlines()]
    result = json.loads((folder / "attribution_result.json").read_text())
    return result, np.array([row["hallucinated"] for row in rows]), load_file(folder / "ablations.safetensors")
