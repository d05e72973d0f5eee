"""Models of the hub answer as their folders do; an original LLaVA is fetched with what its config.json names."""

import shutil
from pathlib import Path

import pytest
import torch

import llava_hh as hh
from llava_hh.models import hub as hub_module
from llava_hh.models.hub import local_folder
from llava_hh.models.lvlm import load_lvlm
from llava_hh.models.original_fields import KNOWN_TOWERS
from llava_hh.runs.identity import identify_checkpoint
from tests.support.tiny_llava15 import save_tiny_llava15
from tests.support.tiny_original import CLIP, N_WORDS, original_weights, write_llava15, write_projector


def test_a_loaded_repository_is_the_same_checkpoint(hub, tiny_checkpoint, tiny_coco):
    """Answers are those of the folder; it is known by the same sha256, with its name and commit beside it."""
    commit = hub.add("org/tiny", tiny_checkpoint)
    lvlm, folder = hh.load("org/tiny"), hh.load(tiny_checkpoint)
    images = sorted((tiny_coco / "val2014").iterdir())[:2]
    assert lvlm.caption(images, max_new_tokens=8) == folder.caption(images, max_new_tokens=8)
    known, own = identify_checkpoint(lvlm.path), identify_checkpoint(folder.path)
    assert known["sha256"] == own["sha256"] and known["files"] == own["files"] and "hub" not in own
    assert known["name"] == "org/tiny" and known["hub"] == {"id": "org/tiny", "commit": commit}


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    """LLaVAs in their own layout with the tower beside them, inside them, and a projector on its base."""
    root = tmp_path_factory.mktemp("originals")
    save_tiny_llava15(root / "hf")
    model = load_lvlm(root / "hf").model
    weights = original_weights(model, N_WORDS)
    write_llava15(root / "original", model, weights, n_shards=2)
    write_llava15(root / "whole", model, weights, n_shards=2, tower_inside=True)
    write_projector(root / "projector", model, weights, _name_or_path="lmsys/vicuna-tiny")
    return root


def test_a_vision_tower_is_fetched_with_the_model_that_names_it(hub, originals, tmp_path, capsys):
    hub.add("org/llava", originals / "original")
    hub.add(f"openai/{CLIP}", originals / CLIP)
    lvlm = load_lvlm("org/llava")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fetching")]
    assert [line.split(",")[0] for line in said] == ["fetching org/llava", f"fetching openai/{CLIP}"]
    expected = load_lvlm(originals / "original").model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in lvlm.model.state_dict().items())
    assert "vision_tower/pytorch_model.bin" in identify_checkpoint(lvlm.path)["files"]
    hub.asked.clear()
    hub_module._snapshot.cache_clear()
    assert load_lvlm("org/llava").path == lvlm.path and not hub.asked


def test_a_tower_that_is_missing_is_fetched_alone(hub, originals, tmp_path):
    hub.add("org/llava", originals / "original")
    with pytest.raises(OSError, match=f"^openai/{CLIP}: no such repository"):
        local_folder("org/llava")
    hub.add(f"openai/{CLIP}", originals / CLIP)
    local_folder("org/llava")
    hub.asked.clear()
    shutil.rmtree(tmp_path / "home" / "hub" / f"models--openai--{CLIP}")
    hub_module._snapshot.cache_clear()
    local_folder("org/llava")
    assert sorted(hub.fetched()) == ["config.json", "pytorch_model.bin"]
    assert not any("org/llava" in line for line in hub.asked)


def test_a_tower_that_is_not_needed_is_not_fetched(hub, originals, tmp_path, monkeypatch):
    """Its weights are in the model's, by their index, and openai's needs no description; or it lies at checkpoints/."""
    monkeypatch.chdir(tmp_path)
    hub.add("org/whole", originals / "whole")
    hub.add("org/llava", originals / "original")
    monkeypatch.setitem(KNOWN_TOWERS, CLIP, {})
    local_folder("org/whole")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / CLIP).symlink_to(originals / CLIP)
    local_folder("org/llava")
    assert not any(CLIP in line for line in hub.asked)


def test_a_projector_is_fetched_with_its_base(hub, originals):
    hub.add("org/projector", originals / "projector")
    hub.add("lmsys/vicuna-tiny", originals / "vicuna-tiny")
    hub.add(f"openai/{CLIP}", originals / CLIP)
    files = identify_checkpoint(load_lvlm("org/projector").path)["files"]
    assert {"mm_projector.bin", "base/pytorch_model.bin", "vision_tower/pytorch_model.bin"} <= files.keys()


def test_a_folder_that_names_repositories_asks_no_server(hub, originals, tmp_path):
    """Only what a user names is fetched: the tower of a folder has to be there."""
    for name in ("original", "projector"):
        shutil.copytree(originals / name, tmp_path / "alone" / name)
    hub.add(f"openai/{CLIP}", originals / CLIP)
    hub.add("lmsys/vicuna-tiny", originals / "vicuna-tiny")
    for name in ("original", "projector"):
        with pytest.raises(FileNotFoundError, match="download it to checkpoints/"):
            load_lvlm(tmp_path / "alone" / name)
    assert not hub.asked
    local_folder(f"openai/{CLIP}", any_kind=True)  # named: now it is in the cache, where it is found
    hub.asked.clear()
    load_lvlm(tmp_path / "alone" / "original")
    assert not hub.asked
