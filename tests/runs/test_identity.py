"""An input is known by its content: what changes numbers changes its identity, and nothing else does."""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from llava_hh.attribution.captions import refuse_other_model
from llava_hh.files.files import sha256
from llava_hh.models.lvlm import load_lvlm
from llava_hh.runs import identity
from llava_hh.runs.identity import checkpoint_files, file_sha256, identify, identify_checkpoint, why_foreign
from llava_hh.scripts import attribute, figure


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache folder of its own, and an hour since every file was written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(identity, "SETTLED", -1.0)
    monkeypatch.setattr(identity, "_read_here", {})
    return tmp_path / "cache" / "llava_hh" / "sha256"


@pytest.fixture
def large(tmp_path) -> Path:
    path = tmp_path / "large.safetensors"
    path.write_bytes(bytes(identity.SMALL + 1))
    return path


def digests_read(monkeypatch) -> list[str]:
    """The names of files that are read from here on, large ones."""
    read = []

    def note(path, size, digest=identity._digest_with_bar):
        read.append(path.name)
        return digest(path, size)

    monkeypatch.setattr(identity, "_digest_with_bar", note)
    return read


def test_a_large_file_is_read_once(large, cache, monkeypatch):
    read = digests_read(monkeypatch)
    link = large.with_name("link")
    link.symlink_to(large)
    assert file_sha256(large) == file_sha256(link) == file_sha256(large) == sha256(large)
    assert read == [large.name]
    assert list(json.loads(cache.read_text())) == [str(large)]
    copy = shutil.copy2(large, large.with_name("copy"))
    assert file_sha256(copy) == sha256(large) and read == [large.name, "copy"]


def test_other_content_is_seen(large):
    before = file_sha256(large)
    times = large.stat()
    large.write_bytes(b"\1" + bytes(identity.SMALL))  # as long as before
    os.utime(large, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file_sha256(large) == sha256(large) != before
    other = large.with_name("other")
    other.write_bytes(b"\2" + bytes(identity.SMALL))
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    os.replace(other, large)
    assert file_sha256(large) == sha256(large)


def test_a_file_written_just_now_is_not_kept(large, cache, monkeypatch):
    monkeypatch.setattr(identity, "SETTLED", 2.0)
    assert file_sha256(large) == sha256(large)
    assert not cache.exists()
    os.utime(large, ns=(0, time.time_ns() + 10**12))  # a clock that goes ahead
    file_sha256(large)
    assert not cache.exists()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}', '{"x": [1]}', "null"])
def test_a_damaged_cache_is_begun_anew(content, large, cache):
    cache.parent.mkdir(parents=True)
    cache.write_text(content)
    assert file_sha256(large) == sha256(large)
    assert json.loads(cache.read_text())[str(large)][-1] == sha256(large)


def test_without_a_place_for_the_cache_a_process_reads_once(large, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    read = digests_read(monkeypatch)
    assert file_sha256(large) == file_sha256(large) == sha256(large)
    assert read == [large.name]


def test_a_name_is_not_believed(tmp_path):
    """The hub's cache names large files by their sha256, but who writes into a snapshot leaves the name."""
    blob = tmp_path / "blobs" / ("0" * 64)
    blob.parent.mkdir()
    blob.write_bytes(bytes(identity.SMALL))
    (tmp_path / "model.safetensors").symlink_to(blob)
    assert file_sha256(tmp_path / "model.safetensors") == sha256(blob)


def copied(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def other_weight(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = min(weights)
    weights[name] = weights[name] + 1
    save_file(weights, path, metadata={"format": "pt"})


def other_value(name: str, key: str, value: object):
    def change(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**content, key: value}))

    return change


CHANGES = {
    "weights of the same sizes": other_weight,
    "config": other_value("config.json", "x", 1),
    "generation_config": other_value("generation_config.json", "eos_token_id", 7),
    "processor": other_value("processor_config.json", "patch_size", 9),
    "image processor": other_value("preprocessor_config.json", "size", 9),
    "tokenizer": other_value("tokenizer.json", "x", 1),
    "tokenizer's settings": other_value("tokenizer_config.json", "add_bos_token", False),
    "special tokens": other_value("special_tokens_map.json", "pad_token", "x"),
    "chat template": lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_numbers_changes_the_identity(change, tiny_checkpoint, tmp_path):
    folder = copied(tiny_checkpoint, tmp_path)
    before = identify_checkpoint(folder)
    CHANGES[change](folder)
    after = identify_checkpoint(folder)
    assert after["sha256"] != before["sha256"]
    assert len({*after["files"].items()} ^ {*before["files"].items()}) in (1, 2)


def test_what_changes_nothing_does_not(tiny_checkpoint, tmp_path):
    folder = copied(tiny_checkpoint, tmp_path)
    before = identify_checkpoint(folder)
    (folder / "README.md").write_text("about")
    (folder / "notes.json").write_text("{}")
    (folder / "._config.json").write_text("")
    (folder / "model.safetensors").touch()
    moved = folder.rename(tmp_path / "moved")
    assert identify_checkpoint(moved) == {**before, "name": "moved"}
    assert identify_checkpoint(tiny_checkpoint)["sha256"] == before["sha256"]


def test_a_head_list_of_another_model(tiny_checkpoint, tmp_path):
    own = identify(tiny_checkpoint)
    assert why_foreign(own, tiny_checkpoint) is None
    assert why_foreign(None, tiny_checkpoint) is None  # as of published lists
    folder = copied(tiny_checkpoint, tmp_path)
    other_weight(folder)
    assert "another model" in why_foreign(own, folder)
    assert "earlier version" in why_foreign({"config_sha256": "0", "weights": {}}, folder)


def test_the_files_of_a_checkpoint_are_those_that_loading_opens(tiny_checkpoint, monkeypatch):
    """A second computation of the list: what Python opens while the checkpoint is loaded."""
    opened = opened_files(lambda: load_lvlm(tiny_checkpoint), tiny_checkpoint)
    assert opened <= {path.name for _, path in checkpoint_files(tiny_checkpoint)}
    assert "config.json" in opened


def opened_files(work, folder: Path) -> set[str]:
    """The files of a folder whose names pass Python's audit hook for `open` during `work`."""
    names, listening = set(), [True]

    def hook(event: str, args: tuple) -> None:
        if listening and event == "open" and isinstance(args[0], str | bytes | os.PathLike):
            path = Path(os.fsdecode(args[0]))
            if path.parent == folder:
                names.add(path.name)

    sys.addaudithook(hook)
    work()
    listening.clear()
    return names


@pytest.mark.parametrize("name", [None, "words", "bias", "inheritance"])
def test_captions_of_another_model_are_refused(name, tiny_results, tiny_checkpoint, tmp_path, capsys):
    folder, captions = tiny_results / "train2014", tmp_path / "captions_eval_results.json"
    shutil.copy(folder / captions.name, captions)
    record = json.loads((folder / "run.json").read_text())
    record["settings"]["model"] |= {"sha256": "0" * 64, "name": "another"}
    (tmp_path / "run.json").write_text(json.dumps(record))
    flags = ["--model", tiny_checkpoint, "--captions", captions, "--image-folder", tmp_path, "--out", tmp_path / "out"]
    if name:
        flags += ["--heads", folder / "identify_attention_head" / "attribution_result.json"]
    if name == "inheritance":
        flags += ["--base-model", tiny_checkpoint]
    with pytest.raises(SystemExit) as stopped:
        (figure if name else attribute).main([*([name] if name else []), *map(str, flags)])
    assert stopped.value.code == 2
    assert f"--captions {captions}: of another model (another) than {tiny_checkpoint}, " in capsys.readouterr().err


@pytest.mark.parametrize("model", [{}, {"model": {"config_sha256": "0" * 64}}, {"model": "tiny"}])
def test_captions_whose_model_is_not_known_are_taken(model, tiny_checkpoint, tmp_path):
    refuse_other_model(tmp_path / "captions_eval_results.json", tiny_checkpoint)
    (tmp_path / "run.json").write_text(json.dumps({"settings": model}))
    refuse_other_model(tmp_path / "captions_eval_results.json", tiny_checkpoint)
