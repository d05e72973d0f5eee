"""Real layouts by their names and sizes alone (LLAVA_HH_REAL): every weight finds its place, and doctor's memory."""

import json
import shutil
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from transformers import ChameleonConfig, CLIPConfig, LlavaForConditionalGeneration

from llava_hh.models.chat import load_whole
from llava_hh.models.checkpoint import model_type_of
from llava_hh.models.footprint import loaded_bytes
from llava_hh.models.loading import Loading
from llava_hh.models.lvlm import FAMILIES, Lvlm
from llava_hh.models.original import load_original
from tests.support.real import real
from tests.support.sparse_files import Shapes, read_shapes, write_shards, write_sparse

META = Loading(device_map="meta")


class Layout(NamedTuple):
    """What a real model has; its configuration is the hub's, names and shapes are those of `names/<names>.json`."""

    names: str
    n_tensors: int
    gigabytes: float
    size: tuple[int, int, int, int]  # layers, heads, key heads, d_head
    image_token: int
    ends: list[int]
    dtype: str = "BF16"
    config: str = "config.json"


LAYOUTS = {
    "llava-1.5-7b-hf": Layout("llava15hf", 686, 14.13, (32, 32, 32, 128), 32000, [2], "F16"),
    "qwen2.5-vl-7b": Layout("qwen25", 729, 16.58, (28, 28, 4, 128), 151655, [151645, 151643]),
    "qwen3-vl-8b-cosmos-reason2": Layout("qwen3vl", 750, 17.53, (36, 32, 8, 128), 151655, [151645, 151643]),
    "llama-3.2-11b-vision": Layout("mllama", 906, 21.34, (40, 32, 8, 128), 128256, [128001, 128008, 128009]),
    "gemma-3-4b-it": Layout("gemma4b", 883, 8.60, (34, 8, 4, 256), 262144, [1, 106]),
    "internvl3-8b-hf": Layout("internvl", 781, 15.89, (28, 28, 4, 128), 151667, [151645]),
    "llava-onevision-qwen2-7b-ov-hf": Layout("onevision", 765, 16.06, (28, 28, 4, 128), 151646, [151645], "F16"),
    "names": Layout("34bhf", 939, 69.5, (60, 56, 8, 128), 64000, [7], "F16", "llava-v1.6-34b-hf.config.rebuilt.json"),
}


@pytest.fixture(autouse=True)
def nothing_is_read(monkeypatch):
    """Tensors on the meta device have shapes alone; transformers would still read every hole of a file."""

    def materialize(tensor, device=None, dtype=None):
        shape = tensor.get_shape() if hasattr(tensor, "get_shape") else tensor.shape
        return torch.empty(shape, device=device, dtype=dtype)

    monkeypatch.setattr("transformers.core_model_loading._materialize_copy", materialize)


def write_folder(folder: Path, source: Path, layout: Layout, shapes: Shapes) -> int:
    shutil.copy(source / layout.config, folder / "config.json")
    if (source / "generation_config.json").is_file():
        shutil.copy(source / "generation_config.json", folder)
    return write_shards(folder, shapes, layout.dtype)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_name_finds_its_place(name, tmp_path, monkeypatch):
    layout = LAYOUTS[name]
    source = real(name, layout.config)
    shapes = read_shapes(real("names", f"{layout.names}.json") / f"{layout.names}.json")
    assert len(shapes) == layout.n_tensors
    size = write_folder(tmp_path, source, layout, shapes)
    if (source / "model.safetensors.index.json").is_file():
        index = json.loads((source / "model.safetensors.index.json").read_text())
        assert index["weight_map"].keys() == shapes.keys()
        assert index["metadata"]["total_size"] in (size, 0)
    assert round(size / 1e9, 2) == layout.gigabytes
    assert loaded_bytes(tmp_path, Loading()) == size
    assert loaded_bytes(tmp_path, replace(META, dtype="float32")) == 2 * size
    assert loaded_bytes(tmp_path, Loading(bits=8)) == size / 2 and loaded_bytes(tmp_path, Loading(bits=4)) == size / 4
    lvlm = load_on_meta(tmp_path, monkeypatch)
    check_sizes(lvlm, layout)


def load_on_meta(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Lvlm:
    """The model without its processor; no name of the files is missing or left over."""
    family = FAMILIES[model_type_of(folder)]()
    model_class = getattr(family, "model_class", LlavaForConditionalGeneration)
    reports, load = [], model_class.from_pretrained

    def remember(*args, **options):
        model, report = load(*args, **options)
        reports.append(report)
        return model, report

    monkeypatch.setattr(model_class, "from_pretrained", remember)
    lvlm = Lvlm(load_whole(model_class, folder, **META.options()), None, family, folder, META)
    assert not reports[0]["unexpected_keys"] and not reports[0]["missing_keys"]
    return lvlm


def check_sizes(lvlm: Lvlm, layout: Layout) -> None:
    assert {weight.device.type for weight in lvlm.model.parameters()} == {"meta"}
    n_kv = lvlm.model.config.get_text_config().num_key_value_heads
    assert (lvlm.n_layers, lvlm.n_heads, n_kv, lvlm.d_head) == layout.size
    assert lvlm.family.image_token_ids(lvlm.model) == [layout.image_token]
    assert lvlm.end_token_ids == layout.ends
    assert len(lvlm.decoder_layers) == lvlm.n_layers


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("7b", Layout("chameleon7b", 548, 14.09, (32, 32, 32, 128), 8711, [2])),
        ("30b", Layout("chameleon30b", 756, 68.65, (48, 64, 8, 128), 8711, [2])),
    ],
)
def test_chameleon(name, layout, tmp_path, monkeypatch):
    """Its hub's config.json is not among the files; it is made of params.json, as the hub's converter makes it."""
    params = json.loads((real(f"chameleon/{name}", "params.json") / "params.json").read_text())["model"]
    shapes = read_shapes(real("names", f"{layout.names}.json") / f"{layout.names}.json")
    config = ChameleonConfig(
        hidden_size=params["dim"],
        intermediate_size=shapes["model.layers.0.mlp.gate_proj.weight"][0],
        num_attention_heads=params["n_heads"],
        num_key_value_heads=params["n_kv_heads"] or params["n_heads"],
        num_hidden_layers=params["n_layers"],
        swin_norm=params["swin_norm"],
        eos_token_id=2,
        vocabulary_map={"<image>": 8711} | {f"IMGIMG{'A' * 3}{chr(65 + n)}Z": 4 + n for n in range(26)},
    )
    config.save_pretrained(tmp_path)
    assert len(shapes) == layout.n_tensors
    assert round(write_shards(tmp_path, shapes, "BF16") / 1e9, 2) == layout.gigabytes
    check_sizes(load_on_meta(tmp_path, monkeypatch), layout)


def original_shapes(shapes: Shapes, n_words: int) -> Shapes:
    """LLaVA's own names of llava-hf's, with the vocabulary that it had."""
    found = {}
    for name, shape in shapes.items():
        for theirs, own in (
            ("language_model.", ""),
            ("multi_modal_projector.linear_1.", "model.mm_projector.0."),
            ("multi_modal_projector.linear_2.", "model.mm_projector.2."),
            ("vision_tower.", "model.vision_tower.vision_tower."),
            ("image_newline", "model.image_newline"),
        ):
            if name.startswith(theirs):
                words = name.endswith(("embed_tokens.weight", "lm_head.weight"))
                found[own + name.removeprefix(theirs)] = (n_words, *shape[1:]) if words else shape
    return found


def test_the_original_of_llava_15(tmp_path):
    """The index of the hub's .bin files, and a CLIP in a folder beside them, whose part for texts is not loaded."""
    source = real("llava-v1.5-7b", "config.json", "tokenizer.model", "pytorch_model.bin.index.json")
    shapes = read_shapes(real("names", "llava15hf.json") / "llava15hf.json")
    own = original_shapes(shapes, 32000)
    inside = {name: shape for name, shape in own.items() if "vision_tower" not in name}
    index = json.loads((source / "pytorch_model.bin.index.json").read_text())
    old = {name for name in index["weight_map"] if name.endswith("rotary_emb.inv_freq")}  # 64 numbers in float32
    assert index["weight_map"].keys() - old == inside.keys() and len(index["weight_map"]) == 327
    folder = tmp_path / "llava-v1.5-7b"
    folder.mkdir()
    for name in ("config.json", "generation_config.json", "tokenizer.model", "tokenizer_config.json"):
        shutil.copy(source / name, folder)
    size = write_sparse(folder / "model.safetensors", inside, "F16")
    assert size + 256 * len(old) == index["metadata"]["total_size"]
    tower = {name.removeprefix("vision_tower."): s for name, s in shapes.items() if name.startswith("vision_tower.")}
    text = {"text_model.embeddings.token_embedding.weight": (49408, 768), "visual_projection.weight": (768, 1024)}
    clip = tmp_path / "clip-vit-large-patch14-336"
    clip.mkdir()
    vision = json.loads((real("llava-1.5-7b-hf", "config.json") / "config.json").read_text())["vision_config"]
    CLIPConfig(vision_config=vision).save_pretrained(clip)
    write_sparse(clip / "model.safetensors", tower | text, "F32")
    n_tower = sum(prod(shape) for shape in tower.values())
    assert loaded_bytes(folder, Loading()) == size + 2 * n_tower  # 13.52 GB and CLIP's part for images
    (folder / "pytorch_model.bin").write_bytes(bytes(1000))  # beside safetensors it counts for nothing
    assert loaded_bytes(folder, Loading()) == size + 2 * n_tower
    model, processor = load_original(folder, **META.options())
    lvlm = Lvlm(model, processor, FAMILIES["llava"](), folder, META)
    check_sizes(lvlm, Layout("", 0, 0, (32, 32, 32, 128), 32000, [2]))
    assert model.get_input_embeddings().num_embeddings == 32001


def test_llama_2_in_both_formats(tmp_path):
    """meta-llama's folder has .bin and safetensors, 27 GB; half of it is loaded. The .bin files are pointers here."""
    source = real("llama-2-7b-chat-hf", "config.json", "pytorch_model.bin.index.json")
    shapes = original_shapes(read_shapes(real("names", "llava15hf.json") / "llava15hf.json"), 32000)
    inner = {name: shape for name, shape in shapes.items() if "mm_projector" not in name and "vision" not in name}
    index = json.loads((source / "pytorch_model.bin.index.json").read_text())
    shutil.copy(source / "config.json", tmp_path)
    size = write_sparse(tmp_path / "model.safetensors", inner, "F16")
    assert size == index["metadata"]["total_size"] and inner.keys() == index["weight_map"].keys()
    for pointer in source.glob("*.lfs-pointer"):
        shutil.copy(pointer, tmp_path / pointer.stem)
    shutil.copy(source / "pytorch_model.bin.index.json", tmp_path)
    assert loaded_bytes(tmp_path, Loading()) == size
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"pytorch_model-0000\d-of-00007.bin: a Git LFS pointer"):
        loaded_bytes(tmp_path, Loading())
