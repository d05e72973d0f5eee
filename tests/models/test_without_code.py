"""A checkpoint's own Python is never run, whatever its files name and whatever stands on stdin."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPVisionConfig, LlamaConfig, LlamaForCausalLM

from llava_hh.baselines.halc.detector import GroundingDino
from llava_hh.baselines.halc.scorer import ImageTextMatcher
from llava_hh.models.lvlm import load_lvlm
from llava_hh.models.minigpt4_checkpoint import load_llama
from llava_hh.models.without_code import from_folder
from llava_hh.scripts import caption
from tests.support.repository import ROOT
from tests.support.tiny_matchers import save_tiny_blip, save_tiny_clip, save_tiny_dino

EVIL = """
from pathlib import Path
(Path({marker!r})).touch()
def __getattr__(name):
    raise RuntimeError("ran")
class Evil:
    pass
def generate(*args, **kwargs):
    raise RuntimeError("ran")
"""
NO_CODE = "it needs Python code of its own (auto_map in a JSON file), which is never run"


@pytest.fixture
def evil(tmp_path, monkeypatch) -> Callable[[Path], None]:
    """Puts code into a folder, which leaves a mark when it runs; on the terminal one would say yes to it."""
    marker = tmp_path / "ran"
    asked = []
    monkeypatch.setattr("builtins.input", lambda text="": asked.append(text) or "y")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))

    def put(folder: Path) -> None:
        (folder / "custom_generate").mkdir()
        for name in ("evil.py", "custom_generate/generate.py"):
            (folder / name).write_text(EVIL.format(marker=str(marker)))

    yield put
    assert not marker.exists() and not asked


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    change(content)
    path.write_text(json.dumps(content))


def mapped(kind: str, inner: str | None = None) -> Callable[[dict], None]:
    """Names code for one of transformers' Auto classes, and a class that transformers does not have."""

    def change(content: dict) -> None:
        own = content[inner] if inner else content
        own["auto_map"] = {kind: ["evil.Evil", "evil.Evil"] if kind == "AutoTokenizer" else "evil.Evil"}
        for name in ("processor_class", "tokenizer_class", "image_processor_type"):
            if {"processor": "AutoProcessor", "tokenizer": "AutoTokenizer"}.get(name.split("_")[0]) == kind:
                own[name] = "Evil"
        if kind == "AutoImageProcessor":
            own["image_processor_type"] = "Evil"

    return change


def no_class(content: dict) -> None:
    content.pop("processor_class", None)


def all_by_config(folder: Path) -> None:
    """No processor class anywhere: transformers finds it by the model's type, and forgets what it was told of code."""
    edit(folder / "processor_config.json", mapped("AutoImageProcessor", "image_processor"))
    for name in ("processor_config.json", "tokenizer_config.json"):
        edit(folder / name, no_class)


CODE = {
    "config of a known type": lambda folder: edit(
        folder / "config.json",
        lambda content: content.update(
            auto_map=dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoProcessor"), "evil.Evil")
        ),
    ),
    "processor": lambda folder: edit(folder / "processor_config.json", mapped("AutoProcessor")),
    "tokenizer": lambda folder: edit(folder / "tokenizer_config.json", mapped("AutoTokenizer")),
    "nested image processor": lambda folder: edit(
        folder / "processor_config.json", mapped("AutoImageProcessor", "image_processor")
    ),
    "image processor of a processor found by the config": all_by_config,
    "code for the tokenizer of another repository": lambda folder: edit(
        folder / "tokenizer_config.json",
        lambda content: content.update(tokenizer_class="Evil", auto_map={"AutoTokenizer": ["a/b--evil.Evil", None]}),
    ),
}


def load(path: Path, loader: Callable) -> None:
    """Loads, or stops with one line that advises no such thing."""
    try:
        loader(path)
    except (ValueError, OSError) as error:
        assert "\n" not in str(error)
        assert "trust_remote_code" not in str(error)
        assert path.name in str(error)


@pytest.mark.parametrize("code", CODE)
def test_checkpoints(code, evil, tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    evil(folder)
    CODE[code](folder)
    load(folder, load_lvlm)


@pytest.mark.parametrize(
    "code", ["processor", "nested image processor", "image processor of a processor found by the config"]
)
def test_the_refusal_says_what_was_found(code, evil, tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    evil(folder)
    CODE[code](folder)
    if code == "processor":
        edit(folder / "tokenizer_config.json", mapped("AutoTokenizer"))
    with pytest.raises(ValueError) as stopped:
        load_lvlm(folder)
    assert str(stopped.value) == f"{folder}: {NO_CODE}; expected a checkpoint for transformers' own classes"


def test_a_yes_on_stdin_changes_nothing_and_nobody_waits(tiny_checkpoint, tiny_coco, tmp_path):
    folder, marker = shutil.copytree(tiny_checkpoint, tmp_path / "model"), tmp_path / "ran"
    (folder / "evil.py").write_text(EVIL.format(marker=str(marker)))
    for name, kind in (("tokenizer_config.json", "AutoTokenizer"), ("processor_config.json", "AutoProcessor")):
        edit(folder / name, mapped(kind))
    command = [sys.executable, "-m", "llava_hh", "caption", "--model", folder, "--out", tmp_path / "out"]
    command += ["--annotations", tiny_coco / "annotations", "--image-folder", tiny_coco / "train2014", "--limit", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(command, env=environment, input="y\n" * 9, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "[y/N]" not in done.stdout + done.stderr
    assert [line for line in done.stderr.splitlines() if "error" in line] == [
        f"error: {folder}: {NO_CODE}; expected a checkpoint for transformers' own classes"
    ]
    assert not marker.exists()


def test_a_checkpoint_with_a_decoder_of_its_own_decodes_without_it(evil, tiny_checkpoint, tiny_coco, tmp_path):
    """As `llava-hh export` moved into a checkpoint makes it."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    evil(folder)
    flags = ["--annotations", tiny_coco / "annotations", "--image-folder", tiny_coco / "train2014", "--limit", "2"]
    flags += ["--split", "train2014"]
    texts = []
    for model in (tiny_checkpoint, folder):
        out = tmp_path / f"out of {model.name}"
        caption.main([str(flag) for flag in ("--model", model, *flags, "--max-new-tokens", 4, "--out", out)])
        texts.append([json.loads(line)["text"] for line in (out / "captions.jsonl").read_text().splitlines()])
    assert texts[0] == texts[1] != []


@pytest.mark.parametrize("code", CODE)
@pytest.mark.parametrize("save", [save_tiny_dino, save_tiny_blip, save_tiny_clip])
def test_what_halc_loads(save, code, evil, tmp_path):
    folder = tmp_path / "part"
    save(folder)
    evil(folder)
    if code == "nested image processor":  # these may keep it in a file of its own, too
        edit(folder / "preprocessor_config.json", mapped("AutoImageProcessor"))
    CODE[code](folder)
    dino = save is save_tiny_dino
    load(folder, (lambda path: GroundingDino(path, 0.3, 0.2, 0.0, 0.5)) if dino else ImageTextMatcher)


@pytest.mark.parametrize("loader", [load_llama, None], ids=["MiniGPT-4's Llama", "a base language model"])
def test_language_models(loader, evil, tmp_path):
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=8, **sizes)).save_pretrained(tmp_path / "base")
    evil(tmp_path / "base")
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    CODE["config of a known type"](tmp_path / "base")
    edit(tmp_path / "base" / "tokenizer_config.json", mapped("AutoTokenizer"))
    if loader:
        loader(tmp_path / "base", "float32")
    else:
        from_folder(AutoModelForCausalLM, tmp_path / "base")
    load(tmp_path / "base", lambda path: from_folder(AutoTokenizer, path))
    edit(tmp_path / "base" / "config.json", lambda content: content.update(model_type="evil"))
    with pytest.raises(ValueError) as stopped:
        from_folder(AutoModelForCausalLM, tmp_path / "base")
    assert NO_CODE in str(stopped.value)


KERNELS = {
    "at the top": {"attn_implementation": "someone/kernel"},
    "of the community": {"_attn_implementation": "kernels-community/flash-attn2"},
    "with a version": {"attn_implementation": "kernels-community/flash-attn3@v1:forward"},
    "paged": {"attn_implementation": "paged|kernels-community/flash-attn2"},
    "by part": {"attn_implementation": {"text_config": "someone/kernel", "vision_config": "sdpa"}},
    "in a part": {"text_config": {"attn_implementation": "someone/kernel"}},
    "of experts": {"text_config": {"experts_implementation": "someone/kernel"}},
}


@pytest.mark.parametrize("named", KERNELS)
def test_kernels_of_the_hub(named, tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")

    def name_it(content: dict) -> None:
        for key, value in KERNELS[named].items():
            content[key] = {**content[key], **value} if key == "text_config" else value

    edit(folder / "config.json", name_it)
    with pytest.raises(
        ValueError, match=r"config\.json: \w+_implementation names '\S+', a kernel of the hub, which is"
    ):
        load_lvlm(folder)


def test_kernels_of_the_hub_in_other_folders(tmp_path):
    """A vision tower's, and those of HALC's parts; names of transformers' own are left to it."""
    for save, loader in (
        (save_tiny_clip, ImageTextMatcher),
        (save_tiny_dino, lambda path: GroundingDino(path, 0.3, 0.2, 0.0, 0.5)),
        (lambda path: CLIPVisionConfig().save_pretrained(path), lambda path: from_folder(CLIPVisionConfig, path)),
    ):
        folder = tmp_path / str(loader)
        save(folder)
        edit(folder / "config.json", lambda content: content.update(attn_implementation="eager"))
        loader(folder)
        edit(folder / "config.json", lambda content: content.update(attn_implementation="someone/kernel"))
        with pytest.raises(ValueError, match="a kernel of the hub"):
            loader(folder)
