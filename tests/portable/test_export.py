"""The exported folder, as a user loads it: plain transformers in a process of its own, without this package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_hh.attention.hooks import intervene
from llava_hh.attention.interventions import DeactivateText
from llava_hh.heads import Head
from llava_hh.models.lvlm import Batch, Lvlm, load_lvlm
from llava_hh.portable import generate
from llava_hh.scripts import export
from tests.support.questions import IMAGES, QUESTIONS, SHOWN
from tests.support.tiny_newer import FAMILIES, save_tiny_family

HEADS = [Head(1, 0), Head(1, 3), Head(2, 2), Head(3, 1)]
THRESHOLD = 0.5
N_TOKENS = 10
# a user's script; arguments: the exported folder, then checkpoints, each with inputs.safetensors in it
PLAIN = """
import pathlib, sys
sys.modules["llava_hh"] = None  # importing it fails, wherever it is installed
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText
folder, *checkpoints = sys.argv[1:]
for checkpoint in checkpoints:
    model = AutoModelForImageTextToText.from_pretrained(checkpoint)
    inputs = load_file(checkpoint + "/inputs.safetensors") | {"repetition_penalty": 1.0, "max_new_tokens": %d}
    if hasattr(model.generate, "func"):
        raise SystemExit("generate was replaced without trust_remote_code")
    adhh = {"custom_generate": folder, "trust_remote_code": True}
    found = {"greedy": model.generate(**inputs, do_sample=False)}
    found["adhh"] = model.generate(**inputs, **adhh, do_sample=False)
    found["beams"] = model.generate(**inputs, **adhh, do_sample=False, num_beams=2)
    found["one_head"] = model.generate(**inputs, **adhh, do_sample=False, heads=[[2, 2]], threshold=0.0)
    found["static"] = model.generate(**inputs, **adhh, do_sample=False, cache_implementation="static")
    try:
        model.generate(**inputs, **adhh, heads=[[9, 0]])
    except ValueError as error:
        print(error)
    found["after"] = model.generate(**inputs, do_sample=False)
    own = pathlib.Path(checkpoint, "custom_generate")
    own.symlink_to(pathlib.Path(folder, "custom_generate"))
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, trust_remote_code=True)
    found["in_checkpoint"] = model.generate(**inputs, do_sample=False)
    save_file({name: ids.contiguous() for name, ids in found.items()}, checkpoint + "/found.safetensors")
"""


def ours(lvlm: Lvlm, batch: Batch, heads: list[Head], threshold: float, **settings) -> tuple[torch.Tensor, dict]:
    with intervene(lvlm.model, batch.image_mask, [DeactivateText(tuple(heads), threshold)]) as trace:
        ids = lvlm.model.generate(**batch.inputs, max_new_tokens=N_TOKENS, do_sample=False, **settings)
    return ids, trace.fired


@pytest.fixture(scope="module")
def checkpoints(tiny_checkpoint: Path, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exported")
    paths = {"llava": folder / "llava", "qwen2_5_vl": folder / "qwen2_5_vl"}
    load_lvlm(tiny_checkpoint).model.save_pretrained(paths["llava"])
    for file in tiny_checkpoint.iterdir():
        if not (paths["llava"] / file.name).exists():
            (paths["llava"] / file.name).write_bytes(file.read_bytes())
    save_tiny_family("qwen2_5_vl", paths["qwen2_5_vl"])
    return paths


def test_plain_transformers_decodes_as_we_do(checkpoints, tmp_path):
    lvlms = {name: load_lvlm(path) for name, path in checkpoints.items()}
    batches = {name: lvlm.encode(IMAGES, QUESTIONS) for name, lvlm in lvlms.items()}
    for name, batch in batches.items():
        assert (batch.inputs["attention_mask"][:, 0] == 0).any(), "some row is padded on the left"
        inputs = {key: value.contiguous() for key, value in batch.inputs.items()}
        save_file(inputs, checkpoints[name] / "inputs.safetensors")
    listed = tmp_path / "heads.json"
    listed.write_text(json.dumps({"hal_heads": [*HEADS, [0, 0]]}))
    folder = tmp_path / "adhh"
    arguments = ["--heads", str(listed), "--top-k", "4", "--threshold", str(THRESHOLD), "--out", str(folder)]
    export.main(arguments)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PLAIN % N_TOKENS, str(folder), *map(str, checkpoints.values())]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["the model has no head [9, 0]"] * 2
    for name, lvlm in lvlms.items():
        found, batch = load_file(checkpoints[name] / "found.safetensors"), batches[name]
        plain = lvlm.model.generate(**batch.inputs, max_new_tokens=N_TOKENS, do_sample=False)
        adhh, fired = ours(lvlm, batch, HEADS, THRESHOLD)
        assert 0 < sum(each.fired for each in fired.values()) < sum(each.decided for each in fired.values())
        assert adhh.shape != plain.shape or (adhh != plain).any()
        beams, _ = ours(lvlm, batch, HEADS, THRESHOLD, num_beams=2)
        one_head, _ = ours(lvlm, batch, [Head(2, 2)], 0.0)
        expected = {"greedy": plain, "after": plain, "adhh": adhh, "in_checkpoint": adhh, "static": adhh}
        for kind, ids in (expected | {"beams": beams, "one_head": one_head}).items():
            assert torch.equal(found[kind], ids), (name, kind)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_decodes_as_under_intervene(name, tmp_path):
    save_tiny_family(name, tmp_path)
    lvlm = load_lvlm(tmp_path)
    batch = lvlm.encode(SHOWN if name == "mllama" else IMAGES, QUESTIONS)
    heads = [Head(0, 1), Head(0, 2), Head(2, 0)]  # mllama's layer 1 attends to the image alone
    plain = lvlm.model.generate(**batch.inputs, max_new_tokens=N_TOKENS, do_sample=False)
    expected, fired = ours(lvlm, batch, heads, 0.3)
    settings = {"heads": heads, "threshold": 0.3, "max_new_tokens": N_TOKENS, "do_sample": False}
    assert torch.equal(generate.generate(model=lvlm.model, **batch.inputs, **settings), expected)
    assert sum(each.fired for each in fired.values()) > 0
    assert expected.shape != plain.shape or (expected != plain).any()
    assert torch.equal(lvlm.model.generate(**batch.inputs, max_new_tokens=N_TOKENS, do_sample=False), plain)


def test_what_cannot_be_is_refused_and_leaves_the_model_alone(mha_llava, batch):
    before = mha_llava(**batch.inputs).logits
    for settings, message in (
        ({"heads": [[4, 0]]}, "no head \\[4, 0\\]"),
        ({"heads": [[0, 4]]}, "no head \\[0, 4\\]"),
        ({"heads": []}, "at least one head"),
        ({"heads": [[0, 0]], "threshold": -0.1}, "must lie in"),
        ({"heads": [[0, 0]], "input_ids": None}, "needs input_ids"),
        ({"heads": [[0, 0]], "max_new_tokens": -1}, "max_new_tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            generate.generate(model=mha_llava, **{**batch.inputs, **settings})
    assert torch.equal(mha_llava(**batch.inputs).logits, before)


def test_the_folder_says_what_is_in_it(tmp_path, capsys):
    listed = tmp_path / "attribution_result.json"
    listed.write_text(json.dumps({"hal_heads": [[16, 29], [26, 9], [13, 31]]}))
    flags = ["--heads", str(listed), "--out", str(tmp_path / "adhh")]
    export.main([*flags, "--top-k", "2", "--threshold", "0.965"])
    content = json.loads((tmp_path / "adhh/heads.json").read_text())
    assert content == {"hal_heads": [[16, 29], [26, 9]], "threshold": 0.965, "source": "attribution_result.json"}
    code: dict = {"__name__": "generate"}
    exec((tmp_path / "adhh/custom_generate/generate.py").read_text(), code)
    assert (code["HEADS"], code["THRESHOLD"]) == ([[16, 29], [26, 9]], 0.965)
    capsys.readouterr()
    for flag, value, message in (
        ("--top-k", "4", "has 3 heads"),
        ("--threshold", "1.5", "expected a fraction from 0 to 1"),
    ):
        with pytest.raises(SystemExit) as stopped:
            export.main([*flags, "--top-k", "2", flag, value])
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1
