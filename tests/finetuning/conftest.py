"""The flags of a fine-tuning of the tiny model."""

import json

import pytest

from tests.support.instructions import HEADS, N_STEPS, write_instructions


@pytest.fixture(scope="module")
def flags(tiny_checkpoint, tiny_coco, tmp_path_factory) -> list[str]:
    """All flags but --out."""
    folder = tmp_path_factory.mktemp("finetune")
    (folder / "heads.json").write_text(json.dumps({"hal_heads": HEADS}))
    write_instructions(tiny_coco, "train2014")
    data = json.loads((tiny_coco / "instruct_train2014.json").read_text())
    for place in (3, 8):  # two of text only
        del data[place]["image"]
        data[place]["conversations"][0]["value"] = "describe"
    (folder / "data.json").write_text(json.dumps(data))
    flags = ["--model", tiny_checkpoint, "--heads", folder / "heads.json", "--top-k", 3, "--data", folder / "data.json"]
    flags += ["--image-folder", tiny_coco, "--steps", N_STEPS, "--batch-size", 4, "--learning-rate", 1e-2]
    return [str(flag) for flag in [*flags, "--save-every", 2, "--max-length", 40]]
