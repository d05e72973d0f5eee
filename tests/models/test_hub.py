"""Checkpoints by their names on the hub: which files are fetched, and that they are fetched once."""

import json
import os
import shutil

import pytest
from huggingface_hub import constants

from llava_hh.models import hub as hub_module
from llava_hh.models.hub import local_folder
from llava_hh.models.hub_id import HubId, read_id
from tests.support.hub_server import NEVER, commit_of, write_repository


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/name", HubId("org/name")),
        ("liuhaotian/llava-v1.5-7b@v1.0", HubId("liuhaotian/llava-v1.5-7b", "v1.0")),
        ("org/name@refs/pr/1", HubId("org/name", "refs/pr/1")),
        ("there/name", None),  # the folder is there
        ("checkpoints/llava-v1.5-7b", None),
        ("./org/name", None),
        ("../org/name", None),
        ("/org/name", None),
        ("org/name/more", None),
        ("name", None),
        ("org/name@", None),
        ("örg/name", None),
        ("org/" + 97 * "n", None),
        ("", None),
    ],
)
def test_what_is_a_name_of_the_hub(text, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    assert read_id(text) == expected


WEIGHTS = {
    "both formats": ["model.safetensors", "pytorch_model.bin"],
    "shards": ["model.safetensors.index.json", "model-1-of-2.safetensors", "model-2-of-2.safetensors"],
    "shards of .bin": ["pytorch_model.bin.index.json", "pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin"],
    "shards of both": [
        *["model.safetensors.index.json", "model-1-of-1.safetensors"],
        *["pytorch_model.bin.index.json", "pytorch_model.bin"],
    ],
    "a projector": ["mm_projector.bin"],
    "a model and its projector": ["pytorch_model.bin", "mm_projector.bin"],
}
LEFT = ["pytorch_model.bin", "pytorch_model.bin.index.json", "mm_projector.bin"]  # where something else is loaded


@pytest.mark.parametrize("case", WEIGHTS)
def test_files_of_a_repository(case, hub, tmp_path):
    """What loading reads, in one format; nothing in folders, no code and no other formats."""
    told = ["tokenizer.json", "tokenizer.model", "chat_template.jinja", "preprocessor_config.json", "vocab.json"]
    folder = write_repository(tmp_path / "repository", *WEIGHTS[case], *told, *NEVER, "README.md")
    hub.add("org/tiny", folder)
    found = local_folder("org/tiny")
    weights = set(WEIGHTS[case])
    weights -= set(LEFT) if "model.safetensors" in weights or "model.safetensors.index.json" in weights else set()
    weights -= {"mm_projector.bin"} if "pytorch_model.bin" in weights else set()
    expected = {"config.json", *told, *weights}
    assert {str(path.relative_to(found)) for path in found.rglob("*")} == expected
    assert sorted(hub.fetched()) == sorted(expected)
    assert all((found / name).read_bytes() == (folder / name).read_bytes() for name in expected)


def test_what_will_be_fetched_is_printed_first(hub, tmp_path, capsys):
    folder = write_repository(tmp_path / "repository", "model.safetensors", "tokenizer.json")
    commit = hub.add("org/tiny", folder)
    size = sum((folder / name).stat().st_size for name in ("model.safetensors", "tokenizer.json"))
    found = local_folder("org/tiny")
    said = capsys.readouterr().err
    assert f"fetching org/tiny, commit {commit[:12]}: 2 files, {size / 1e3:.0f} kB, into {found}\n" in said


def test_a_whole_snapshot_asks_no_server(hub, tmp_path, monkeypatch):
    hub.add("org/tiny", write_repository(tmp_path / "repository", "model.safetensors"))
    first = local_folder("org/tiny")
    hub.asked.clear()
    hub_module._snapshot.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert local_folder("org/tiny") == first and not hub.asked


def test_revisions(hub, tmp_path):
    for revision in ("main", "v1"):
        hub.add("org/tiny", write_repository(tmp_path / revision, "model.safetensors", revision=revision), revision)
    commit = commit_of(tmp_path / "v1")
    for named, revision in (("org/tiny", "main"), ("org/tiny@v1", "v1"), (f"org/tiny@{commit}", "v1")):
        folder = local_folder(named)
        assert json.loads((folder / "config.json").read_text())["revision"] == revision
        assert folder.name == commit_of(tmp_path / revision)


def test_a_file_that_is_cut_off_goes_on(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)
    folder = write_repository(tmp_path / "repository", "model.safetensors")
    (folder / "model.safetensors").write_bytes(os.urandom(1 << 20))
    hub.add("org/tiny", folder)
    hub.cut.append("model.safetensors")
    found = local_folder("org/tiny")
    assert (found / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    [again] = [line for line in hub.asked if "bytes=" in line]
    assert again.startswith("GET") and 0 < int(again.rpartition("=")[2].rstrip("-")) <= 1 << 19


def test_only_what_is_missing_is_fetched_again(hub, tmp_path):
    hub.add("org/tiny", write_repository(tmp_path / "repository", *WEIGHTS["shards"], "tokenizer.json"))
    folder = local_folder("org/tiny")
    for name in ("model-2-of-2.safetensors", "tokenizer.json"):
        path = folder / name
        path.resolve().unlink()
        path.unlink()
        hub.asked.clear()
        hub_module._snapshot.cache_clear()
        assert local_folder("org/tiny") == folder and hub.fetched() == [name]


def test_a_cache_without_the_list_of_files(hub, tmp_path):
    """Another program filled it: weights decide whether it is whole."""
    hub.add("org/tiny", write_repository(tmp_path / "repository", *WEIGHTS["shards"]))
    folder = local_folder("org/tiny")
    shutil.copytree(folder.parents[1], tmp_path / "home/hub/models--org--other", symlinks=True)
    other = tmp_path / "home/hub/models--org--other"
    shutil.rmtree(other / "trees")
    hub.asked.clear()
    assert local_folder("org/other") == other / "snapshots" / folder.name and not hub.asked
    (other / "snapshots" / folder.name / "model-2-of-2.safetensors").unlink()
    hub_module._snapshot.cache_clear()
    with pytest.raises(OSError, match="org/other: no such repository"):
        local_folder("org/other")


def test_weights_of_another_sha256_are_refused_and_fetched_anew(hub, tmp_path, monkeypatch):
    hub.add("org/tiny", write_repository(tmp_path / "repository", "model.safetensors", "tokenizer.json"))
    with monkeypatch.context() as patch, pytest.raises(ValueError, match=r"model\.safetensors: not what org/tiny has"):
        patch.setattr("llava_hh.models.hub.sha256", lambda _: "0" * 64)
        local_folder("org/tiny")
    assert "model.safetensors" in hub.fetched()
    before = hub.fetched().count("model.safetensors")
    found = local_folder("org/tiny")
    assert hub.fetched().count("model.safetensors") == before + 1
    assert (found / "model.safetensors").read_bytes() == (tmp_path / "repository/model.safetensors").read_bytes()
