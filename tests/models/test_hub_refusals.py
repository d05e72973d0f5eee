"""What stops a repository of the hub, in one line that says both ways out, before weights are fetched."""

import json
from collections import namedtuple
from pathlib import Path

import pytest
from huggingface_hub import constants

from llava_hh.models.hub import local_folder
from llava_hh.models.lvlm import load_lvlm
from tests.support.hub_server import NEVER, point_at, serving, write_repository

SHARDS = ["model.safetensors.index.json", "model-1-of-2.safetensors", "model-2-of-2.safetensors"]
BOTH_WAYS = ("fetch it by `hf download org/tiny", "or give the path of a folder with its files")


@pytest.mark.parametrize(
    ("named", "token", "said"),
    [
        (
            "org/none",
            None,
            "no such repository at http://127.0.0.1:{port} (404), or a private one that HF_TOKEN has to be",
        ),
        ("org/none", "good", "(404), or a private one that the account of HF_TOKEN may not read"),
        (
            "org/tiny@v9",
            None,
            "no revision 'v9' there; expected a branch, a tag or a commit; fetch it by `hf download ",
        ),
        (
            "org/tiny",
            None,
            "a gated repository (401); accept its terms at http://127.0.0.1:{port}/org/tiny, and set HF_TOK",
        ),
        (
            "org/tiny",
            "other",
            "a gated repository (403), which the account of HF_TOKEN may not read; ask for access at ",
        ),
        ("org/tiny", "wrong", "refuses the token of HF_TOKEN (401: not valid)"),
    ],
)
def test_repositories_that_cannot_be_read(named, token, said, hub, tmp_path, monkeypatch):
    hub.add("org/tiny", write_repository(tmp_path / "repository", "model.safetensors"))
    hub.readers["org/tiny"] = {"good"}
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(OSError) as stopped:
        local_folder(named)
    text = str(stopped.value)
    assert text.startswith(f"{named}: ") and "\n" not in text
    assert said.format(port=hub.url.rpartition(":")[2]) in text
    assert all(way.replace("org/tiny", named.partition("@")[0]) in text for way in BOTH_WAYS)


def test_a_gated_repository_with_a_token(hub, tmp_path, monkeypatch):
    hub.add("org/tiny", write_repository(tmp_path / "repository", "model.safetensors"))
    hub.readers["org/tiny"] = {"good"}
    monkeypatch.setenv("HF_TOKEN", "good")
    assert (local_folder("org/tiny") / "model.safetensors").is_file()


def test_without_a_server(hub, tmp_path, monkeypatch):
    with serving() as gone:
        pass
    point_at(gone, tmp_path / "home", monkeypatch)
    with pytest.raises(OSError, match=rf"^org/tiny: {gone.url} cannot be reached \(.*\); fetch it by `hf download"):
        local_folder("org/tiny")


def test_offline(hub, tmp_path, monkeypatch):
    hub.add("org/tiny", write_repository(tmp_path / "repository", "model.safetensors"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError) as stopped:
        local_folder("org/tiny")
    assert f"not (whole) in the cache, {tmp_path}/home/hub, and HF_HUB_OFFLINE is set" in str(stopped.value)
    assert all(way in str(stopped.value) for way in BOTH_WAYS) and not hub.asked


def test_a_disk_without_room(hub, tmp_path, monkeypatch):
    hub.add("org/tiny", write_repository(tmp_path / "repository", "model.safetensors"))
    usage = namedtuple("usage", "total used free")(10, 10, 0)
    monkeypatch.setattr("llava_hh.files.disk.shutil.disk_usage", lambda _: usage)
    with pytest.raises(
        OSError, match="0 kB are needed there, 0 kB are free; make room, or set HF_HOME to another disk"
    ):
        local_folder("org/tiny")
    assert hub.fetched() == ["config.json"]


@pytest.mark.parametrize(
    ("files", "fields", "said"),
    [
        (["model.safetensors", "adapter_config.json"], {}, "has adapter_config.json, a LoRA adapter; merge it into"),
        (
            ["model.gguf", "consolidated.00.pth"],
            {},
            "no weights there; expected model.safetensors or pytorch_model.bin",
        ),
        (["model.safetensors.index.json"], {}, "no weights there"),
        (
            ["model.safetensors"],
            {"mm_vision_tower": "a/b", "model_type": "llava_mistral"},
            "an original LLaVA of model",
        ),
        (["model.safetensors"], {"model_type": "mistral"}, "model type 'mistral' is not supported; supported: llava"),
        (
            ["model.safetensors"],
            {"model_type": "tiny_vl", "auto_map": {"AutoModel": "modeling_tiny.TinyVL"}},
            "model type 'tiny_vl' needs Python code of its own (trust_remote_code: auto_map in config.json), which is",
        ),
    ],
)
def test_repositories_that_are_refused_before_weights_are_fetched(files, fields, said, hub, tmp_path):
    hub.add("org/tiny", write_repository(tmp_path / "repository", *files, *NEVER, **fields))
    with pytest.raises((ValueError, FileNotFoundError)) as stopped:
        local_folder("org/tiny")
    assert str(stopped.value).startswith(f"org/tiny: {said}")
    assert {*hub.fetched()} <= {"config.json", "model.safetensors.index.json"}


def test_an_index_that_names_other_files(hub, tmp_path):
    folder = write_repository(tmp_path / "repository", *SHARDS)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../elsewhere"}}))
    hub.add("org/tiny", folder)
    with pytest.raises(ValueError, match="^org/tiny: model.safetensors.index.json names ../../elsewhere, which"):
        local_folder("org/tiny")


def test_code_of_a_family_of_ours_is_left_out(hub, tmp_path):
    """llava-hf and others leave auto_map for old versions; transformers' own class loads these."""
    hub.add("org/tiny", write_repository(tmp_path / "repository", "model.safetensors", *NEVER, auto_map={"A": "b.C"}))
    assert not list(local_folder("org/tiny").glob("*.py"))


def test_a_path_is_a_folder_and_asks_no_server(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for named in (Path("org/none"), "checkpoints/none", str(tmp_path / "org" / "none")):
        with pytest.raises(FileNotFoundError, match="no config.json there; expected a folder with a checkpoint"):
            load_lvlm(named)
    assert not hub.asked
