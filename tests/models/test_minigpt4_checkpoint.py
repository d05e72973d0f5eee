"""MiniGPT-4's files: a folder that names its parts, what they may hold, and one line for each that does not fit."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import LlamaForCausalLM

from llava_hh.files.files import sha256
from llava_hh.models.loading import Loading
from llava_hh.models.lvlm import DESCRIBE, Lvlm, load_lvlm
from llava_hh.models.minigpt4_model import MiniGpt4ForConditionalGeneration
from llava_hh.runs.identity import identify_checkpoint
from tests.support.tiny_minigpt4 import WIDTH, name_parts, save_tiny_parts


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """The published files, and our folders beside them."""
    folder = tmp_path_factory.mktemp("parts")
    save_tiny_parts(folder)
    return folder


@pytest.fixture(scope="module")
def lvlm(files) -> Lvlm:
    return load_lvlm(files / "minigpt4")


@pytest.fixture
def copied(files, tmp_path) -> Path:
    """The files once more, to be changed."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_a_folder_is_told_apart_by_its_parts(files):
    known = identify_checkpoint(files / "minigpt4")["files"]
    assert {"vision_tower/eva_vit_g.pth", "language_model/model.safetensors", "projector/projector.pth"} <= known.keys()
    assert known["projector/projector.pth"] == sha256(files / "projector.pth")
    assert "fine_tuned/tuned.pth" in identify_checkpoint(files / "official")["files"]


def test_absolute_paths_and_another_type(files, tmp_path):
    folder = name_parts(
        tmp_path,
        language_model=str(files / "llama"),
        vision_tower=str(files / "eva_vit_g.pth"),
        projector=str(files / "projector.pth"),
    )
    lvlm = load_lvlm(folder, Loading("bfloat16"))
    assert {weight.dtype for weight in lvlm.model.parameters()} == {torch.bfloat16}
    batch = lvlm.encode([Image.new("RGB", (30, 20))], [DESCRIBE])
    assert lvlm.model(**batch.inputs).logits.isfinite().all()


def change_file(path: Path, change) -> None:
    content = torch.load(path, weights_only=True)
    change(content.get("model", content))
    torch.save(content, path)


def renamed(tensors: dict, begin: str, to: str) -> None:
    for name in [name for name in tensors if name.startswith(begin)]:
        tensors[to + name.removeprefix(begin)] = tensors.pop(name)


@pytest.mark.parametrize(
    ("begin", "to"),
    [("llama_model.", ""), ("llama_model.", "llama_model.base_model.model."), ("llama_model.", "base_model.model.")],
)
def test_prefixes_of_fine_tuned_files(begin, to, files, copied):

    def change(tensors):
        renamed(tensors, begin, to)
        tensors[f"{to}model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)

    change_file(copied / "tuned.pth", change)
    expected = load_lvlm(files / "official").model.state_dict()
    for name, tensor in load_lvlm(copied / "official").model.state_dict().items():
        assert torch.equal(tensor, expected[name])


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BAD_FILES = [
    ("eva_vit_g.pth", cut_short, r"eva_vit_g\.pth: damaged, cut off, or not a file of tensors alone \("),
    ("eva_vit_g.pth", lambda path: path.write_bytes(b""), r"eva_vit_g\.pth: damaged, cut off, or not a file"),
    ("tuned.pth", lambda path: path.write_text("<html>"), r"tuned\.pth: damaged, cut off, or not a file"),
    (
        "projector.pth",
        lambda path: torch.save({"model": [1, 2]}, path),
        r"projector\.pth: .*\(expected tensors by",
    ),
    ("projector.pth", lambda path: torch.save({"model": {}}, path), "weights missing: model.llama_proj.bias, model.ll"),
    ("tuned.pth", lambda path: torch.save({"model": {}}, path), r"tuned\.pth: no weight of the language model"),
    ("projector.pth", Path.unlink, r"config\.json: parts: projector: nothing at .*projector\.pth"),
    ("llama/model.safetensors", cut_short, r"llama/model\.safetensors: damaged, cut off"),
    ("llama/model.safetensors", Path.unlink, r"llama: its weights cannot be read \("),
    ("llama/tokenizer.json", Path.unlink, r"llama: no tokenizer\.json there; expected Llama-2"),
    ("llama/config.json", Path.unlink, r"llama: no config\.json there; expected Llama-2"),
    ("llama/config.json", lambda path: path.write_text('{"model_type": "gpt2"}'), r"llama: a model of type 'gpt2'"),
]


@pytest.mark.parametrize(("name", "damage", "line"), BAD_FILES)
def test_a_bad_file_is_one_line(name, damage, line, copied):
    damage(copied / name)
    with pytest.raises((ValueError, FileNotFoundError), match=line) as caught:
        load_lvlm(copied / "official")
    assert "\n" not in str(caught.value)


BAD_NAMES = [
    ("eva_vit_g.pth", lambda own: own.pop("blocks.1.attn.v_bias"), "left over: visual_encoder.blocks.1.at"),
    ("eva_vit_g.pth", lambda own: own.pop("pos_embed"), r"missing: model\.vision_tower\.embeddings\.position_emb"),
    ("eva_vit_g.pth", lambda own: renamed(own, "pos_embed", "pos"), "missing: .*; left over: .*pos$"),
    ("projector.pth", lambda own: renamed(own, "llama_proj.b", "proj.b"), "missing: .*llama_proj.bias; .*: proj.bias"),
    ("eva_vit_g.pth", lambda own: renamed(own, "blocks.", "layers."), "layers.0.mlp.fc1.bias and 43 more"),
    (
        "projector.pth",
        lambda own: own.update({"llama_proj.weight": torch.ones(32, 9)}),
        r"projector.pth: llama_proj.weight has shape \(32, 9\); the model needs \(32, 64\)",
    ),
    ("tuned.pth", lambda own: renamed(own, "llama_model.lm", "head.lm"), "left over: head.lm_head.weight"),
    (
        "tuned.pth",
        lambda own: own.update({"llama_model.model.layers.1.self_attn.q_proj.lora_A.weight": torch.ones(1)}),
        "left over: llama_model.model.layers.1.self_attn.q_proj.lora_A.weight",
    ),
]


@pytest.mark.parametrize(("name", "change", "line"), BAD_NAMES)
def test_names_and_shapes_that_do_not_fit_are_listed(name, change, line, copied):
    change_file(copied / name, change)
    with pytest.raises(ValueError, match=line) as caught:
        load_lvlm(copied / "official")
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "key", "named"),
    [
        ("eva_vit_g.pth", "gamma", "visual_encoder.gamma"),
        ("eva_vit_g.pth", "rope.freqs_cos", "visual_encoder.rope.freqs_cos"),
        ("projector.pth", "Qformer.x", "Qformer.x"),
    ],
)
def test_what_a_complete_file_has_beside_is_named_and_left_out(name, key, named, lvlm, copied, capsys):
    change_file(copied / name, lambda own: own.update({key: torch.ones(1)}))
    found = load_lvlm(copied / "minigpt4").model.state_dict()
    assert f"{name}: left out, since the model has no such weights: {named}" in capsys.readouterr().err
    assert found.keys() == lvlm.model.state_dict().keys()
    assert all(torch.equal(found[own], tensor) for own, tensor in lvlm.model.state_dict().items())


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.bin"])
def test_an_adapter_beside_llama_is_refused(name, copied):
    (copied / "llama" / name).write_text("{}")
    with pytest.raises(ValueError, match=rf"llama/{name}: a LoRA adapter.*; merge it into its base"):
        load_lvlm(copied / "minigpt4")


@pytest.mark.parametrize("bits", [4, 8])
def test_quantization_reaches_the_whole(bits, files, monkeypatch):
    """What from_pretrained gets; bitsandbytes itself need not be installed."""
    given = {}

    def remember(*_, **options):
        given.update(options)
        raise NotImplementedError("enough seen")

    monkeypatch.setattr(MiniGpt4ForConditionalGeneration, "from_pretrained", remember)
    with pytest.raises(ValueError, match="enough seen"):
        load_lvlm(files / "minigpt4", Loading(bits=bits))
    assert (given["quantization_config"].load_in_4bit, given["quantization_config"].load_in_8bit) == (
        bits == 4,
        bits == 8,
    )
    assert given["device_map"] == "cpu" and given["dtype"] == torch.float32


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_quantization_without_its_package_is_one_line(files):
    with pytest.raises(ValueError, match="bitsandbytes") as error:
        load_lvlm(files / "minigpt4", Loading(bits=4))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"prompt": "vicuna"}, r"config\.json: prompt 'vicuna'; expected one of: harness, official"),
        ({"parts": ["llama"]}, r"parts \['llama'\]; expected a path for each of language_model, projector, vision"),
        ({"parts": {"language_model": "x", "eva": "y"}}, "'eva': 'y'}; expected a path for each of"),
        ({"parts": dict.fromkeys(("language_model", "projector", "vision_tower"))}, "None}; expected a path for each"),
        (
            {"parts": dict.fromkeys(("language_model", "projector", "vision_tower", "lora"), "x")},
            "and for fine_tuned where there is one",
        ),
        ({"parts": None}, "no file named model.safetensors"),
    ],
)
def test_a_wrong_config_is_one_line(change, line, files, tmp_path):
    config = json.loads((files / "minigpt4/config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises((ValueError, OSError), match=line):
        load_lvlm(tmp_path)


def test_a_saved_folder_that_lacks_weights_is_refused(lvlm, tmp_path):
    weights = lvlm.model.state_dict()
    del weights["model.llama_proj.bias"]
    lvlm.model.save_pretrained(tmp_path, state_dict=weights)
    lvlm.processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="weights missing: model.llama_proj.bias"):
        load_lvlm(tmp_path)


def test_a_file_may_have_ln_vision(lvlm, copied):
    own = {"ln_vision.weight": torch.linspace(0.5, 2, WIDTH), "ln_vision.bias": torch.linspace(-1, 1, WIDTH)}
    change_file(copied / "projector.pth", lambda tensors: tensors.update(own))
    norm = load_lvlm(copied / "minigpt4").model.model.vision_tower.post_layernorm
    assert torch.equal(norm.weight, own["ln_vision.weight"]) and torch.equal(norm.bias, own["ln_vision.bias"])
    norm = lvlm.model.model.vision_tower.post_layernorm
    assert (norm.weight == 1).all() and not norm.bias.any()


def test_words_that_the_tokenizer_lacks_are_never_spoken(copied):
    llama = LlamaForCausalLM.from_pretrained(copied / "llama")
    n_words = llama.config.vocab_size
    llama.resize_token_embeddings(n_words + 3)
    llama.save_pretrained(copied / "llama")
    lvlm = load_lvlm(copied / "minigpt4")
    assert lvlm.model.config.image_token_id == n_words
    assert lvlm.model.generation_config.suppress_tokens == [n_words, n_words + 1, n_words + 2]
