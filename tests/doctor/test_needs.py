"""What doctor says of memory, and of the parts that a profile names beside its model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_hh.doctor import examination as doctor
from llava_hh.models.footprint import advice, loaded_bytes
from llava_hh.models.loading import Loading
from llava_hh.models.lvlm import load_lvlm
from tests.support.examined import examine, set_setting, write_profile
from tests.support.nocaps_files import write_official
from tests.support.sparse_files import POINTER
from tests.support.tiny_checkpoint import save_tiny_checkpoint, write_tiny_coco
from tests.support.tiny_llava15 import save_tiny_llava15
from tests.support.tiny_matchers import save_tiny_blip, save_tiny_dino
from tests.support.tiny_minigpt4 import save_tiny_parts
from tests.support.tiny_newer import FAMILIES, save_tiny_family
from tests.support.tiny_original import N_WORDS, original_weights, write_llava15, write_projector


def n_weights(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.state_dict().values())


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """A folder of each layout, all of them float32."""
    root = tmp_path_factory.mktemp("layouts")
    save_tiny_llava15(root / "hf")
    model = load_lvlm(root / "hf").model
    weights = original_weights(model, N_WORDS)
    write_llava15(root / "original", model, weights)
    write_projector(root / "pretrain", model, weights)
    save_tiny_parts(root)
    return root


@pytest.mark.parametrize(("name", "beside"), [("hf", 0), ("original", 0.005), ("pretrain", 0.005), ("minigpt4", 0.04)])
def test_the_bytes_of_a_loaded_model(name, beside, folders):
    """Counted in the model that is loaded; little beside it: LLaVA's row for the image, EVA's last block and head."""
    lvlm = load_lvlm(folders / name)
    size = n_weights(lvlm.model)
    for loading, each in [
        (Loading(), 4),
        (Loading("bfloat16"), 2),
        (Loading("float16"), 2),
        (Loading("float64"), 8),
        (Loading(bits=8), 1),
        (Loading("bfloat16", bits=4), 0.5),
    ]:
        assert loaded_bytes(folders / name, loading) == pytest.approx(each * size, rel=beside)


@pytest.mark.parametrize(("name", "part"), [("hf", "hf"), ("minigpt4", "llama")])
def test_weights_in_two_formats_count_once(name, part, folders, tmp_path):
    copy = Path(shutil.copytree(folders, tmp_path / "copy"))
    before = loaded_bytes(copy / name, Loading())
    torch.save(load_file(copy / part / "model.safetensors"), copy / part / "pytorch_model.bin")
    (copy / part / "consolidated.00.pth").write_bytes(bytes(10**6))
    assert loaded_bytes(copy / name, Loading()) == before


def test_the_type_is_the_files_where_the_config_names_none(tmp_path):
    """Qwen3-VL's config.json has a dtype in its text_config alone, MiniGPT-4's none: 4 bytes a weight were assumed."""
    save_tiny_family("qwen3_vl", tmp_path)
    path = tmp_path / "model.safetensors"
    save_file({name: own.to(torch.bfloat16) for name, own in load_file(path).items()}, path, {"format": "pt"})
    size = n_weights(load_lvlm(tmp_path).model)
    config = json.loads((tmp_path / "config.json").read_text())
    for own in (config, config["text_config"], config["vision_config"]):
        own.pop("dtype", None)
    for inner in (None, "bfloat16"):
        if inner:
            config["text_config"]["dtype"] = inner
        (tmp_path / "config.json").write_text(json.dumps(config))
        found = [loaded_bytes(tmp_path, loading) for loading in (Loading(), Loading("bfloat16"), Loading(bits=8))]
        assert found == [2 * size, 2 * size, size]
        assert loaded_bytes(tmp_path, Loading("float32")) == 4 * size
    config["dtype"] = "float32"  # what the config says is what is loaded
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert loaded_bytes(tmp_path, Loading()) == 4 * size


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_counted(family, tmp_path):
    save_tiny_family(family, tmp_path)
    stored = load_file(tmp_path / "model.safetensors").values()
    assert loaded_bytes(tmp_path, Loading()) == sum(own.numel() * own.itemsize for own in stored)


def test_what_is_set_is_not_advised(folders):
    hf = folders / "hf"
    assert advice(hf, Loading()) == "Set DEVICE_MAP=auto, DTYPE=bfloat16 or BITS=4, or take a smaller model."
    assert advice(hf, Loading("bfloat16")) == "Set DEVICE_MAP=auto or BITS=4, or take a smaller model."
    assert advice(hf, Loading(device_map="auto")) == "Set DTYPE=bfloat16 or BITS=4, or take a smaller model."
    assert advice(hf, Loading(bits=8)) == "Set DEVICE_MAP=auto or BITS=4, or take a smaller model."
    assert advice(hf, Loading(bits=4)) == "Set DEVICE_MAP=auto, or take a smaller model."
    assert advice(hf, Loading("float16", "auto", 4)) == "Take a smaller model."
    assert "BITS=4" in advice(folders / "original", Loading(device_map="auto"))
    assert "the disk serves only the transformers layout" in advice(folders / "original", Loading(device_map="auto"))


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A model, COCO, and all that a profile may name beside them."""
    root = tmp_path_factory.mktemp("sound")
    save_tiny_checkpoint(root / "model")
    write_tiny_coco(root / "coco", 6)
    save_tiny_parts(root)
    for step in (500, 1000):
        shutil.copytree(root / "model", root / f"checkpoint-{step}")
    save_tiny_dino(root / "dino")
    save_tiny_blip(root / "blip")
    (root / "instruct.json").write_text('[{"id": "1", "conversations": []}]\n')
    write_official(root / "nocaps" / "annotations")
    (root / "nocaps" / "images" / "val").mkdir(parents=True)
    return root


NAMED = {
    "base_model": "llama",
    "reference_model": "model",
    "training_steps": "",
    "instruct_path": "instruct.json",
    "instruct_images": "coco",
    "halc_detector": "dino",
    "halc_scorer": "blip",
    "nocaps_path": "nocaps",
}
BESIDE = ("figure 4", "figure 5", "TF-HH", "HALC", "nocaps")


@pytest.fixture
def patient(sound, tmp_path) -> Path:
    folder = Path(shutil.copytree(sound, tmp_path / "patient"))
    write_profile(folder)
    for name, path in NAMED.items():
        set_setting(folder, name, folder / path)
    set_setting(folder, "training_checkpoints", "checkpoint-500 checkpoint-1000")
    return folder


def test_what_a_profile_names_beside_its_model_is_looked_at(patient, capsys):
    found = examine(patient, capsys)
    assert {mark for mark, _ in found.values()} == {"ok"}, found
    assert "checkpoint-1000" in found["figure 5"][1] and "blip" in found["HALC"][1]


def remove(*names: str):
    return lambda folder: [shutil.rmtree(p) if (p := folder / name).is_dir() else p.unlink() for name in names]


@pytest.mark.parametrize(
    ("name", "gone", "text"),
    [
        ("figure 4", remove("llama"), "base_model: nothing at"),
        ("TF-HH", remove("instruct.json"), "instruct_path: nothing at"),
        ("HALC", remove("dino", "blip"), "halc_detector, halc_scorer: nothing at"),
        ("nocaps", remove("nocaps"), "nocaps_path: nothing at"),
    ],
)
def test_what_is_not_there_yet_is_left_out_by_name(name, gone, text, patient, capsys):
    gone(patient)
    found = examine(patient, capsys)
    assert {key: mark for key, (mark, _) in found.items() if mark != "ok"} == {name: "skipped"}
    assert text in found[name][1]


FAULTS = {
    "base is a pointer": ("figure 4", lambda f: (f / "llama/model.safetensors").write_text(POINTER), "Git LFS pointer"),
    "base without weights": ("figure 4", remove("llama/model.safetensors"), "llama: no weight files there"),
    "a step is not there": ("figure 5", remove("checkpoint-1000"), "checkpoint-1000: not there, though the profile"),
    "a step is cut off": (
        "figure 5",
        lambda f: (f / "checkpoint-1000/model.safetensors").write_bytes(b"\x08"),
        "checkpoint-1000/model.safetensors: damaged, cut off",
    ),
    "no scorer": ("HALC", remove("blip"), "blip: not there, though the profile names it beside"),
    "detector without config": ("HALC", remove("dino/config.json"), "dino: no config.json there"),
    "detector is a pointer": ("HALC", lambda f: (f / "dino/model.safetensors").write_text(POINTER), "Git LFS pointer"),
    "data is cut off": ("TF-HH", lambda f: (f / "instruct.json").write_text('[{"id": "1"'), "instruct.json: cut off"),
    "data is a pointer": ("TF-HH", lambda f: (f / "instruct.json").write_text(POINTER), "Git LFS pointer"),
    "no nocaps images": ("nocaps", remove("nocaps/images"), "images/val: no such folder"),
    "no nocaps annotations": ("nocaps", remove("nocaps/annotations"), "annotations"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_there_must_be_right(fault, patient, capsys):
    name, break_it, message = FAULTS[fault]
    break_it(patient)
    found = examine(patient, capsys)
    assert [key for key, (mark, _) in found.items() if mark != "ok"] == [name]
    assert found[name][0] == "FAIL" and message in found[name][1]


@pytest.mark.parametrize(("layout", "suffix"), [("hf", "safetensors"), ("hf", "bin"), ("original", "bin")])
def test_pointers_and_pickles_are_told_by_doctor(layout, suffix, folders, patient, capsys):
    shutil.rmtree(patient / "model")
    copy = shutil.copytree(folders, patient / "copy")
    (copy / layout).rename(patient / "model")
    path = patient / "model" / {"safetensors": "model.safetensors", "bin": "pytorch_model.bin"}[suffix]
    for other in (*(patient / "model").glob("*.safetensors"), *(patient / "model").glob("*.bin")):
        other.unlink()
    for content, told in (
        (POINTER.encode(), "a Git LFS pointer, not the file itself"),
        (b"<html>", "damaged, cut off"),
    ):
        path.write_bytes(content)
        mark, text = examine(patient, capsys)["checkpoint"]
        assert mark == "FAIL" and f"{path.name}: {told}" in text and "weights_only" not in text


def test_layers_beyond_memory_stay_on_the_disk(patient, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "free_memory", lambda _: (5e4, "GPUs and the CPU"))
    assert examine(patient, capsys)["memory"][0] == "FAIL"
    monkeypatch.setenv("DEVICE_MAP", "auto")
    found = examine(patient, capsys)
    assert found["memory"][0] == "ok" and "the rest stays on the disk" in found["memory"][1]
    assert found["weights"][0] == found["intervention"][0] == "ok"
    monkeypatch.setenv("BITS", "8")  # quantized layers cannot stay there
    mark, text = examine(patient, capsys)["memory"]
    assert mark == "FAIL" and "DEVICE_MAP" not in text and text.endswith(". Set BITS=4, or take a smaller model.")


def test_parts_that_are_missing_are_told_where_they_go(folders, patient, capsys):
    """A tower beside an original checkpoint, the base of a projector, an adapter that nobody merged."""
    for layout, told in (("original", "clip-vit-tiny-patch14-28"), ("pretrain", "vicuna-tiny")):
        shutil.rmtree(patient / "model")
        shutil.copytree(folders / layout, patient / "model")
        mark, text = examine(patient, capsys)["checkpoint"]
        assert mark == "FAIL" and f"download it to checkpoints/{told}" in text and "files again" not in text
    (patient / "model" / "adapter_config.json").write_text("{}")
    mark, text = examine(patient, capsys)["checkpoint"]
    assert mark == "FAIL" and "model/adapter_config.json: a LoRA adapter" in text
