"""The paper's folders through the scripts: captions, attribution and figure 5 on original checkpoints."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from llava_hh.files.files import read_json
from llava_hh.models.lvlm import load_lvlm
from llava_hh.scripts import attribute, caption, convert, figure
from tests.support.tiny_llava15 import OBJECTS, save_tiny_llava15
from tests.support.tiny_original import N_WORDS, original_weights, write_llava15, write_projector
from tests.support.verbs import score_chair


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    """A projector on its base, and two steps of tuning; the language model moves with every step."""
    folder = tmp_path_factory.mktemp("checkpoints")
    save_tiny_llava15(folder / "hf")
    model = load_lvlm(folder / "hf").model
    weights = original_weights(model, N_WORDS)
    write_projector(folder / "llava-v1.5-tiny-pretrain", model, weights)
    for step in (500, 1000):
        torch.manual_seed(0)
        moved = {
            name: weight + step * 1e-4 * torch.randn_like(weight) if ".layers." in name and weight.ndim == 2 else weight
            for name, weight in weights.items()
        }
        tuned = folder / "llava-v1.5-tiny-instruction-tuning" / f"checkpoint-{step}"
        write_llava15(tuned, model, moved, "model.safetensors", tower_inside=True, model_type="llava_llama")
    return folder


@pytest.fixture(scope="module")
def captions(checkpoints, tiny_coco, tmp_path_factory) -> Path:
    """Captions of a tuned model, scored; random ones hallucinate."""
    out = tmp_path_factory.mktemp("captions")
    model = checkpoints / "llava-v1.5-tiny-instruction-tuning" / "checkpoint-1000"
    flags = ["--model", model, "--image-folder", tiny_coco / "train2014", "--annotations", tiny_coco / "annotations"]
    flags += ["--split", "train2014", "--out", out, "--limit", 6, "--max-new-tokens", 8]
    caption.main([str(flag) for flag in flags])
    score_chair(["--captions", str(out / "captions.jsonl"), "--annotations", str(tiny_coco / "annotations")])
    return out


def test_captions_and_attribution(checkpoints, captions, tiny_coco, tmp_path):
    rows = [json.loads(line) for line in (captions / "captions.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert {word for row in rows for word in row["text"].split()} <= set(OBJECTS)
    model = checkpoints / "llava-v1.5-tiny-instruction-tuning" / "checkpoint-1000"
    flags = ["--model", model, "--captions", captions / "captions_eval_results.json"]
    flags += ["--image-folder", tiny_coco / "train2014", "--out", tmp_path]
    attribute.main([str(flag) for flag in flags])
    result = read_json(tmp_path / "attribution_result.json")
    assert len(result["hal_heads"]) == 16


def test_figure_5_is_that_of_the_converted_folders(checkpoints, captions, tiny_coco, tmp_path):
    heads = tmp_path / "heads.json"
    heads.write_text(json.dumps({"hal_heads": [[1, 2], [3, 0]], "non_hal_heads": [[0, 1], [2, 3]]}))
    reference, tuned = checkpoints / "llava-v1.5-tiny-pretrain", checkpoints / "llava-v1.5-tiny-instruction-tuning"
    originals = [reference, tuned / "checkpoint-500", tuned / "checkpoint-1000"]
    for folder in originals:
        convert.main(["--model", str(folder), "--out", str(tmp_path / "converted" / folder.name)])
    results = {}
    for kind, folders in {
        "original": originals,
        "converted": [tmp_path / "converted" / folder.name for folder in originals],
    }.items():
        flags = ["--reference", folders[0], "--checkpoints", *folders[1:], "--heads", heads, "--top-k", 2, "--limit", 3]
        flags += ["--captions", captions / "captions_eval_results.json", "--image-folder", tiny_coco / "train2014"]
        figure.main([str(flag) for flag in ("divergence", *flags, "--out", tmp_path / kind)])
        steps = read_json(tmp_path / kind / "js_divergence.json")["steps"]
        results[kind] = np.array([step["all_heads"] for step in steps])
    assert np.allclose(results["original"], results["converted"], atol=1e-6)
    assert (results["original"][1] > results["original"][0]).all()  # the later step moved twice as far
