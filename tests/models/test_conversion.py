"""Converting an original checkpoint: the library loads the same model from the new folder, complete or not at all."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.testing import assert_close
from transformers import (
    AutoProcessor,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
)

from llava_hh.models import conversion
from llava_hh.models.checkpoint import load_checkpoint
from llava_hh.models.lvlm import load_lvlm
from llava_hh.scripts import convert
from tests.support.modes import of_other_modes
from tests.support.photos import PHOTOS, assert_same_model
from tests.support.tiny_original import (
    tiny_llava16,
    write_llava15,
    write_llava16,
    write_projector,
    yi_tokens,
)


@pytest.fixture(params=["whole", "projector"])
def folder(request, published, weights, tmp_path) -> Path:
    if request.param == "projector":
        return write_projector(tmp_path / "pretrain", published.model, weights)
    return write_llava15(tmp_path / "llava-v1.5-tiny", published.model, weights, n_shards=3)


def run(*flags: object) -> None:
    convert.main([str(flag) for flag in flags])


def shards_of(out: Path) -> list[Path]:
    return sorted(out.glob("*.safetensors"))


def test_the_library_loads_the_same_model(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "SHARD_BYTES", 60_000)
    out = tmp_path / "converted"
    run("--model", folder, "--out", out)
    assert len(shards_of(out)) > 3 and not of_other_modes(out)
    for path in shards_of(out):
        with safe_open(path, "pt") as file:
            sizes = [file.get_tensor(name).nbytes for name in file.keys()]  # noqa: SIM118
        assert sum(sizes) <= 60_000 or len(sizes) == 1
    model, report = LlavaForConditionalGeneration.from_pretrained(out, output_loading_info=True)
    assert not any(report.values())
    own = load_lvlm(folder)
    state = own.model.state_dict()
    assert state.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    again = load_lvlm(out)
    assert_same_model(again, own)
    assert again.model.generation_config.to_dict() == own.model.generation_config.to_dict()
    assert again.tokenizer.get_vocab() == own.tokenizer.get_vocab()
    assert json.loads((out / "config.json").read_text())["architectures"] == ["LlavaForConditionalGeneration"]


def test_llava16(tmp_path):
    tokens = yi_tokens()
    folder = write_llava16(tmp_path / "llava-v1.6-tiny", tiny_llava16(len(tokens)), tokens)
    run("--model", folder, "--out", tmp_path / "converted")
    model = LlavaNextForConditionalGeneration.from_pretrained(tmp_path / "converted")
    # what transformers 4 reads in another place, or by another name (4.57 gives the same ids and logits, tried by hand)
    said = json.loads((tmp_path / "converted" / "config.json").read_text())["text_config"]
    assert said["rope_theta"] == said["rope_parameters"]["rope_theta"] == 5000
    settings = json.loads((tmp_path / "converted" / "tokenizer_config.json").read_text())
    assert settings["add_bos_token"] is False and "<|im_end|>" in settings["additional_special_tokens"]
    assert (tmp_path / "converted" / "tokenizer.model").read_bytes() == (folder / "tokenizer.model").read_bytes()
    index = json.loads((tmp_path / "converted" / "model.safetensors.index.json").read_text())["weight_map"]
    assert not any(name.startswith("model.vision_tower.embeddings") for name in index)
    processor = AutoProcessor.from_pretrained(tmp_path / "converted")
    expected, own = load_checkpoint(LlavaNextForConditionalGeneration, folder)
    texts = ["<|im_start|>user\n<image>\na dog<|im_end|>"] * 3
    inputs, originals = (
        each(images=PHOTOS, text=texts, padding=True, return_tensors="pt") for each in (processor, own)
    )
    assert inputs.keys() == originals.keys()
    for name in inputs:
        assert torch.equal(inputs[name], originals[name]), name
    with torch.no_grad():
        assert_close(model(**inputs).logits, expected(**inputs).logits, atol=1e-5, rtol=1e-5)
    assert model.generation_config.eos_token_id == expected.generation_config.eos_token_id


def test_dtype(published, weights, tmp_path):
    folder = write_llava15(tmp_path / "llava", published.model, weights)
    run("--model", folder, "--out", tmp_path / "half", "--dtype", "bfloat16")
    with safe_open(shards_of(tmp_path / "half")[0], "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118
    model = load_lvlm(tmp_path / "half").model
    assert model.dtype == torch.bfloat16
    own = weights["model.layers.0.mlp.up_proj.weight"]
    assert torch.equal(model.model.language_model.layers[0].mlp.up_proj.weight, own.bfloat16())


def test_a_killed_conversion_leaves_nothing_that_looks_whole(published, weights, tmp_path, monkeypatch):
    folder, out = write_llava15(tmp_path / "llava", published.model, weights), tmp_path / "converted"
    save = conversion.save_file

    def save_twice(tensors: dict, path: Path, metadata: dict) -> None:
        save(tensors, path, metadata)
        if "00002" in path.name:
            raise KeyboardInterrupt

    monkeypatch.setattr(conversion, "SHARD_BYTES", 60_000)
    monkeypatch.setattr(conversion, "save_file", save_twice)
    with pytest.raises(KeyboardInterrupt):
        run("--model", folder, "--out", out)
    assert not out.exists()
    monkeypatch.setattr(conversion, "save_file", save)
    monkeypatch.setattr(conversion, "SHARD_BYTES", 10**9)
    run("--model", folder, "--out", out)
    assert len(shards_of(out)) == 1
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("model", "out", "complaint"),
    [
        ("llava", "llava", "--out .*llava: is an input of this run"),
        ("hf", "new", "hf: not an original LLaVA checkpoint; its config.json has no mm_vision_tower"),
        ("nothing", "new", "nothing: no config.json there"),
    ],
)
def test_wrong_folders(model, out, complaint, published, weights, tmp_path, capsys):
    write_llava15(tmp_path / "llava", published.model, weights)
    published.model.save_pretrained(tmp_path / "hf")
    with pytest.raises(SystemExit) as stopped:
        run("--model", tmp_path / model, "--out", tmp_path / out)
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    assert re.search(complaint, lines[-1])
