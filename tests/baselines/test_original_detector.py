"""GroundingDINO's original file: a tiny random model renamed to the original's names is the same model again."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from llava_hh.baselines.halc import detector, settings
from llava_hh.baselines.halc.detector import load_detector
from llava_hh.baselines.halc.original_detector import UNUSED, load_original, renamed
from llava_hh.baselines.halc.settings import HalcSettings
from tests.support.real import real
from tests.support.tiny_matchers import save_tiny_dino

IMAGE = Image.linear_gradient("L").resize((80, 64)).convert("RGB")
# transformers' names -> the original's, one after the other; written from the names alone, apart from the code's table
BACK = [
    (r"^model\.backbone\.conv_encoder\.model\.embeddings\.patch_embeddings\.projection", "backbone.0.patch_embed.proj"),
    (r"^model\.backbone\.conv_encoder\.model\.embeddings\.norm", "backbone.0.patch_embed.norm"),
    (
        r"^model\.backbone\.conv_encoder\.model\.hidden_states_norms\.stage(\d)",
        lambda m: f"backbone.0.norm{int(m[1]) - 1}",
    ),
    (r"^model\.backbone\.conv_encoder\.model\.encoder\.layers", "backbone.0.layers"),
    (r"(blocks\.\d+)\.layernorm_before", r"\1.norm1"),
    (r"(blocks\.\d+)\.layernorm_after", r"\1.norm2"),
    (r"(blocks\.\d+)\.attention\.output\.dense", r"\1.attn.proj"),
    (r"(blocks\.\d+)\.attention\.self", r"\1.attn"),
    (r"(blocks\.\d+)\.intermediate\.dense", r"\1.mlp.fc1"),
    (r"(blocks\.\d+)\.output\.dense", r"\1.mlp.fc2"),
    (r"^model\.text_backbone", "bert"),
    (r"^model\.text_projection", "feat_map"),
    (r"^model\.input_proj_vision", "input_proj"),
    (r"^model\.level_embed", "transformer.level_embed"),
    (r"^model\.query_position_embeddings", "transformer.tgt_embed"),
    (r"^model\.enc_output", "transformer.enc_output"),
    (r"^model\.encoder_output_bbox_embed", "transformer.enc_out_bbox_embed"),
    (r"^model\.decoder\.layer_norm", "transformer.decoder.norm"),
    (r"^model\.decoder\.reference_points_head", "transformer.decoder.ref_point_head"),
    (r"^model\.encoder\.layers\.(\d+)\.text_enhancer_layer", r"transformer.encoder.text_layers.\1"),
    (r"^model\.encoder\.layers\.(\d+)\.fusion_layer", r"transformer.encoder.fusion_layers.\1"),
    (r"^model\.encoder\.layers\.(\d+)\.deformable_layer", r"transformer.encoder.layers.\1"),
    (r"^model\.decoder", "transformer.decoder"),
    (r"(fusion_layers\.\d+)\.vision_param", r"\1.gamma_v"),
    (r"(fusion_layers\.\d+)\.text_param", r"\1.gamma_l"),
    (r"(fusion_layers\.\d+\.layer_norm_)vision", r"\1v"),
    (r"(fusion_layers\.\d+\.layer_norm_)text", r"\1l"),
    (r"(fusion_layers\.\d+\.attn\.(?:values_|out_)?)vision_proj", r"\1v_proj"),
    (r"(fusion_layers\.\d+\.attn\.(?:values_|out_)?)text_proj", r"\1l_proj"),
    (r"(text_layers\.\d+)\.layer_norm_before", r"\1.norm1"),
    (r"(text_layers\.\d+)\.layer_norm_after", r"\1.norm2"),
    (r"(encoder\.layers\.\d+)\.self_attn_layer_norm", r"\1.norm1"),
    (r"(encoder\.layers\.\d+)\.final_layer_norm", r"\1.norm2"),
    (r"(decoder\.layers\.\d+)\.encoder_attn_text_layer_norm", r"\1.catext_norm"),
    (r"(decoder\.layers\.\d+)\.encoder_attn_text", r"\1.ca_text"),
    (r"(decoder\.layers\.\d+)\.encoder_attn_layer_norm", r"\1.norm1"),
    (r"(decoder\.layers\.\d+)\.encoder_attn", r"\1.cross_attn"),
    (r"(decoder\.layers\.\d+)\.self_attn_layer_norm", r"\1.norm2"),
    (r"(decoder\.layers\.\d+)\.final_layer_norm", r"\1.norm3"),
    (r"((?:text_layers|encoder\.layers|decoder\.layers)\.\d+)\.fc([12])", r"\1.linear\2"),
]
THREE = re.compile(r"(.*)\.(query|key|value)\.(weight|bias)")


def to_original(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed, threes = {}, {}
    for name, tensor in weights.items():
        for pattern, new in BACK:
            name = re.sub(pattern, new, name)
        if (found := THREE.fullmatch(name)) and not name.startswith("bert."):
            stem = f"{found[1]}.qkv." if name.startswith("backbone") else f"{found[1]}.in_proj_"
            threes.setdefault(stem + found[3], {})[found[2]] = tensor
        else:
            renamed[f"module.{name}"] = tensor.clone()
    for name, parts in threes.items():
        renamed[f"module.{name}"] = torch.cat([parts[part] for part in ("query", "key", "value")])
    return {**renamed, "module.label_enc.weight": torch.zeros(3)}


@pytest.fixture(scope="module")
def dino(tmp_path_factory) -> tuple[Path, Path]:
    """A folder without weights, and the original file."""
    folder = tmp_path_factory.mktemp("dino") / "described"
    save_tiny_dino(folder)
    shutil.copytree(folder, folder.with_name("whole"))
    file = folder.with_name("groundingdino_swint_ogc.pth")
    saved = load_file(folder / "model.safetensors")  # the hub's file has no .swin in its names, nor that layer norm
    weights = {name.replace(".swin.", "."): tensor for name, tensor in saved.items() if ".swin.layernorm" not in name}
    torch.save({"model": to_original(weights)}, file)
    (folder / "model.safetensors").unlink()
    return folder, file


def test_boxes_are_the_same(dino, monkeypatch):
    folder, file = dino
    monkeypatch.setattr(settings, "ORIGINAL_DINO", file)
    asked = {"box_threshold": 0.01, "text_threshold": 0.01, "min_area": 0.0, "duplicate_iou": 1.0}
    of_folder = load_detector(HalcSettings(detector=str(folder), **asked))
    monkeypatch.setattr(settings, "DINO", str(folder))
    detector._load.cache_clear()
    of_file = load_detector(HalcSettings(detector=str(file), **asked))
    detector._load.cache_clear()
    whole = load_detector(HalcSettings(detector=str(folder.with_name("whole")), **asked))
    for word in ("cat", "dog"):
        expected = whole.detect(IMAGE, word)
        assert expected and of_folder.detect(IMAGE, word) == of_file.detect(IMAGE, word) == expected
    for name, tensor in whole.model.state_dict().items():
        if ".swin.layernorm" in name:  # nothing reads it
            continue
        assert torch.equal(of_folder.model.state_dict()[name], tensor), name


def test_the_files_decide_what_the_method_is(dino, monkeypatch):
    folder, file = dino
    monkeypatch.setattr(settings, "ORIGINAL_DINO", file)
    tools = HalcSettings(detector=str(folder)).tools()
    assert (tools["detector"], tools["detector_config"]) == (file, folder)
    whole = folder.with_name("whole")
    assert HalcSettings(detector=str(whole)).tools()["detector"] == whole


def test_other_tensors_are_named(dino, tmp_path):
    folder, file = dino
    weights = torch.load(file, weights_only=True)["model"]
    dropped = {name: tensor for name, tensor in weights.items() if name != "module.feat_map.bias"}
    for content, message in (
        ({**weights, "module.what": torch.zeros(1)}, "'what' is no tensor of GroundingDINO"),
        (dropped, "missing model.text_projection.bias"),
        ({**weights, "module.feat_map.bias": torch.zeros(2)}, "tensors of another shape, listed above"),
    ):
        torch.save({"model": content}, tmp_path / "other.pth")
        with pytest.raises(ValueError, match=message):
            load_original(tmp_path / "other.pth", folder)


def test_every_tensor_of_the_real_model_has_a_name_in_the_original():
    names = json.loads((real("names", "gdino.json") / "gdino.json").read_text())
    weights = {name: torch.zeros(shape) for name, (_, shape) in names.items() if "index" not in name}
    back = {
        new: tuple(part.shape)
        for name, tensor in to_original(weights).items()
        if not UNUSED.fullmatch(plain := name.removeprefix("module."))
        for new, part in renamed(plain, tensor)
    }
    assert back == {name: tuple(tensor.shape) for name, tensor in weights.items()}
