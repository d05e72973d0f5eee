"""Damaged and foreign checkpoints, original and in transformers' layout: one line that names what is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_hh.models.lvlm import Lvlm, load_lvlm
from tests.support.tiny_llava15 import save_tiny_llava15
from tests.support.tiny_original import (
    CLIP,
    N_WORDS,
    original_weights,
    tiny_llava16,
    write_llava15,
    write_llava16,
    write_projector,
    yi_tokens,
)


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "llava-1.5-tiny-hf"
    save_tiny_llava15(folder)
    return folder


@pytest.fixture(scope="module")
def lvlm(published) -> Lvlm:
    return load_lvlm(published)


@pytest.fixture(scope="module")
def weights(lvlm) -> dict[str, torch.Tensor]:
    return original_weights(lvlm.model, N_WORDS)


@pytest.fixture
def refused(tmp_path) -> Callable[..., None]:
    """Loading a folder must raise `error` with one line that names the folder and `parts`."""

    def check(folder: Path, *parts: str, error: type[Exception] = ValueError) -> None:
        with pytest.raises(error) as raised:
            load_lvlm(folder)
        message = str(raised.value)
        assert "\n" not in message
        for part in (str(tmp_path), *parts):
            assert part in message

    return check


def change_fields(folder: Path, **changes) -> None:
    fields = json.loads((folder / "config.json").read_text()) | changes
    kept = {name: value for name, value in fields.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(kept))


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# --- weights


@pytest.mark.parametrize("stem", ["pytorch_model.bin", "model.safetensors"])
def test_missing_and_renamed_tensors_are_named(stem, lvlm, weights, tmp_path, refused):
    name, norm = "model.layers.1.mlp.up_proj.weight", "model.norm.weight"
    fewer = {key: tensor for key, tensor in weights.items() if key != name}
    folder = write_llava15(tmp_path / "llava", lvlm.model, fewer, stem)
    refused(folder, "weights missing: model.language_model.layers.1.mlp.up_proj.weight")
    fewer[f"{norm}s"] = fewer.pop(norm)
    write_llava15(folder, lvlm.model, fewer, stem)
    refused(folder, name.replace("model.", "", 1), "model.language_model.norm.weight; left over: model.norm.weights")


def test_many_names_are_counted(lvlm, weights, tmp_path, refused):
    fewer = {key: tensor for key, tensor in weights.items() if ".layers.2." not in key}
    refused(write_llava15(tmp_path / "llava", lvlm.model, fewer), "layers.2.", " and 4 more")


@pytest.mark.parametrize("stem", ["pytorch_model.bin", "model.safetensors"])
def test_a_truncated_or_absent_shard(stem, lvlm, weights, tmp_path, refused):
    folder = write_llava15(tmp_path / "llava", lvlm.model, weights, stem, n_shards=3)
    shard = sorted(folder.glob(f"*-00002-of-*{Path(stem).suffix}"))[0]
    cut_off(shard)
    refused(folder, shard.name, "damaged, cut off")
    shard.write_bytes(b"")
    refused(folder, shard.name, "damaged, cut off")
    shard.unlink()
    refused(folder, shard.name, "not there, but it is named as one of weights", error=FileNotFoundError)


class Malicious:
    def __reduce__(self):
        return (print, ("run",))


def test_pickled_code_is_refused(lvlm, weights, tmp_path, refused, capsys):
    folder = write_llava15(tmp_path / "llava", lvlm.model, weights)
    torch.save({**weights, "model.norm.weight": Malicious()}, folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin", "not a file of tensors alone")
    torch.save([1, 2], folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin", "not a file of tensors alone")
    assert "run" not in capsys.readouterr().out


def test_a_projector_of_another_width(lvlm, weights, tmp_path, refused):
    folder = write_projector(tmp_path / "pretrain", lvlm.model, weights)
    wide = {name: weight for name, weight in weights.items() if "mm_projector" in name}
    wide["model.mm_projector.0.weight"] = torch.zeros(48, 32)
    torch.save(wide, folder / "mm_projector.bin")
    refused(folder, "mm_projector.bin", "model.mm_projector.0.weight has shape (48, 32); the model needs (32, 32)")


def test_what_a_projector_file_has_beside_is_named_and_left_out(lvlm, weights, tmp_path, refused, capsys):
    folder = write_projector(tmp_path / "pretrain", lvlm.model, weights)
    expected = {name: tensor.clone() for name, tensor in load_lvlm(folder).model.state_dict().items()}  # mapped files
    own = torch.load(folder / "mm_projector.bin", weights_only=True)
    torch.save(own | {"model.mm_projector.4.weight": torch.ones(2)}, folder / "mm_projector.bin")
    found = load_lvlm(folder).model.state_dict()
    line = "mm_projector.bin: left out, since the model has no such weights: model.mm_projector.4.weight"
    assert line in capsys.readouterr().err
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    own["model.mm_projector.9.bias"] = own.pop("model.mm_projector.0.bias")
    torch.save(own, folder / "mm_projector.bin")
    refused(folder, "missing: model.multi_modal_projector.linear_1.bias; left over: model.mm_projector.9.bias")


def test_what_whole_weights_have_beside_is_refused(lvlm, weights, tmp_path, refused):
    """Of whole weights nobody knows which part of the model a name means."""
    folder = write_llava15(tmp_path / "llava", lvlm.model, weights | {"model.extra": torch.ones(1)})
    refused(folder, "left over: model.extra")


ADAPTER = ["adapter_config.json", "adapter_model.bin", "adapter_model.safetensors", "non_lora_trainables.bin"]


@pytest.mark.parametrize("name", ADAPTER)
def test_an_adapter_that_would_not_be_applied(name, lvlm, weights, tmp_path, refused):
    """Beside whole weights, beside a projector, beside a projector's base, and alone."""
    whole = write_llava15(tmp_path / "llava", lvlm.model, weights)
    projector = write_projector(tmp_path / "pretrain", lvlm.model, weights)
    base, alone = tmp_path / "vicuna-tiny", tmp_path / "checkpoint-6000"
    alone.mkdir()
    for folder in (whole, projector, base, alone):
        (folder / name).write_text("{}")
        refused(projector if folder == base else folder, str(folder / name), "a LoRA adapter", "merge it into its base")
        (folder / name).unlink()


@pytest.mark.parametrize("name", ["vision_model.encoder.extra", "encoder.layers.0.extra", "embeddings.extra"])
def test_a_clip_tensor_among_whole_weights_is_refused(name, lvlm, weights, tmp_path, refused):
    """It might replace the tower's own; only a CLIP beside the checkpoint has such names."""
    folder = write_llava15(tmp_path / "llava", lvlm.model, weights | {name: torch.ones(1)})
    refused(folder, f"left over: {name}")


def test_an_adapter_beside_weights_of_transformers(tiny_checkpoint, tmp_path, refused):
    """transformers would apply it, and a weight that the model lacks would be random without a word."""
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "tiny"))
    (folder / "adapter_config.json").write_text("{}")
    refused(folder, str(folder / "adapter_config.json"), "a LoRA adapter", "merge it into its base")


def test_a_vocabulary_of_another_size(lvlm, weights, tmp_path, refused):
    cut = weights | {"lm_head.weight": weights["lm_head.weight"][:-3].clone()}
    folder = write_llava15(tmp_path / "llava", lvlm.model, cut)
    refused(folder, f"lm_head.weight has shape ({N_WORDS - 3}, 32); the model needs ({N_WORDS + 1}, 32)")


# --- parts that are not there


def test_a_tower_that_is_not_there(lvlm, weights, tmp_path, refused):
    folder = write_llava15(tmp_path / "llava", lvlm.model, weights)
    shutil.rmtree(tmp_path / CLIP)
    refused(folder, "mm_vision_tower", CLIP, "download it to checkpoints", error=FileNotFoundError)


def test_a_tower_of_another_kind(lvlm, weights, tmp_path, refused):
    folder = write_llava15(tmp_path / "llava", lvlm.model, weights)
    change_fields(tmp_path / CLIP, model_type="siglip")
    refused(folder, "a vision tower of model type 'siglip'; expected clip")


def test_a_projector_without_its_base(lvlm, weights, tmp_path, refused):
    folder = write_projector(tmp_path / "pretrain", lvlm.model, weights)
    (tmp_path / "vicuna-tiny" / "pytorch_model.bin").unlink()
    refused(folder, "no weights there; it is the base language model", error=FileNotFoundError)
    shutil.rmtree(tmp_path / "vicuna-tiny")
    refused(folder, "base language model", "vicuna-tiny", error=FileNotFoundError)
    change_fields(folder, _name_or_path=...)
    refused(folder, "config.json: no _name_or_path there; expected the base language model's folder")
    (folder / "mm_projector.bin").unlink()
    refused(folder, "no weights there; expected model.safetensors", error=FileNotFoundError)


def test_a_tokenizer_that_is_not_there_or_damaged(lvlm, weights, tmp_path, refused):
    folder = write_llava15(tmp_path / "llava", lvlm.model, weights)
    (folder / "tokenizer.model").write_bytes(b"\x0a\xff\xff")
    refused(folder, "tokenizer.model: damaged or cut off")
    (folder / "tokenizer.model").unlink()
    refused(folder, "tokenizer.model: not there", error=FileNotFoundError)


# --- config.json


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model_type": "llava_mpt"}, "an original LLaVA of model type 'llava_mpt'; expected llava or llava_llama"),
        ({"mm_projector_type": "linear"}, "mm_projector_type 'linear' is not supported; expected 'mlp2x_gelu'"),
        ({"mm_vision_select_feature": "cls"}, "mm_vision_select_feature 'cls' is not supported"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end True is not supported; expected False"),
        ({"image_aspect_ratio": "anyres", "image_grid_pinpoints": []}, "mm_patch_merge_type None is not supported"),
        ({"vocab_size": ...}, "no vocab_size there"),
        ({"image_aspect_ratio": "anyres_max_9"}, "no image_grid_pinpoints there"),
    ],
)
def test_fields_that_are_not_supported(changes, complaint, lvlm, weights, tmp_path, refused):
    folder = write_llava15(tmp_path / "llava", lvlm.model, weights)
    change_fields(folder, **changes)
    refused(folder, complaint)


def test_pinpoints_in_another_form(tmp_path, refused):
    tokens = yi_tokens()
    folder = write_llava16(tmp_path / "llava", tiny_llava16(len(tokens)), tokens, image_grid_pinpoints="(1x1),(2x2)")
    refused(folder, "image_grid_pinpoints '(1x1),(2x2)' is not supported")


def test_a_folder_that_is_no_checkpoint(tmp_path, refused):
    refused(tmp_path, "no config.json there", error=FileNotFoundError)
    (tmp_path / "config.json").write_text("{")
    refused(tmp_path, "config.json: not JSON")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    refused(tmp_path, "model type 'bert' is not supported; supported: llava")


# --- the same in transformers' layout


def copy_published(published: Path, tmp_path: Path, change: Callable[[dict], dict]) -> Path:
    folder = tmp_path / "hf"
    shutil.copytree(published, folder)
    save_file(change(load_file(published / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
    return folder


def test_renamed_in_transformers_layout(published, tmp_path, refused):
    name = "language_model.model.norm.weight"
    folder = copy_published(
        published, tmp_path, lambda own: {f"{key}s" if key == name else key: own[key] for key in own}
    )
    refused(folder, "weights missing: model.language_model.norm.weight; left over: ", "norm.weights")


def test_another_width_in_transformers_layout(published, tmp_path, refused):
    name = "multi_modal_projector.linear_1.weight"
    folder = copy_published(published, tmp_path, lambda own: own | {name: torch.zeros(48, 32)})
    refused(folder, "weights of another shape: model.multi_modal_projector.linear_1.weight", "(48, 32)", "(32, 32)")


def test_truncated_in_transformers_layout(published, tmp_path, refused):
    folder = copy_published(published, tmp_path, dict)
    cut_off(folder / "model.safetensors")
    refused(folder, "model.safetensors: damaged, cut off")
