"""Files of checkpoints that are not what they should be, whoever reads them: Git LFS pointers, pickles, stray JSON."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaForCausalLM

from llava_hh.baselines.halc.detector import GroundingDino
from llava_hh.baselines.halc.scorer import ImageTextMatcher
from llava_hh.command_line.script import errors_in_one_line
from llava_hh.data.coco import load_image_list
from llava_hh.experiments.measures.attention_inheritance import load_base
from llava_hh.files.images import load_image
from llava_hh.heads import load_heads
from llava_hh.models.lvlm import load_lvlm
from tests.support.sparse_files import POINTER
from tests.support.tiny import N_HEADS, VOCABULARY
from tests.support.tiny_llava15 import save_tiny_llava15
from tests.support.tiny_matchers import save_tiny_blip, save_tiny_dino
from tests.support.tiny_minigpt4 import save_tiny_parts
from tests.support.tiny_newer import FAMILIES, save_tiny_family
from tests.support.tiny_original import CLIP, N_WORDS, original_weights, write_llava15, write_projector


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A folder of each layout."""
    root = tmp_path_factory.mktemp("sound")
    save_tiny_llava15(root / "hf")
    model = load_lvlm(root / "hf").model
    weights = original_weights(model, N_WORDS)
    write_llava15(root / "bin", model, weights, n_shards=2)
    write_llava15(root / "safetensors", model, weights, "model.safetensors")
    write_projector(root / "pretrain", model, weights)
    shutil.copytree(root / "hf", root / "hf-bin")
    torch.save(load_file(root / "hf" / "model.safetensors"), root / "hf-bin" / "pytorch_model.bin")
    (root / "hf-bin" / "model.safetensors").unlink()
    save_tiny_parts(root)
    shutil.copytree(root / "llama", root / "base")
    save_tiny_dino(root / "dino")
    save_tiny_blip(root / "blip")
    return root


@pytest.fixture
def copied(sound, tmp_path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "copied"))


def load_halc_detector(path: Path) -> object:
    return GroundingDino(path, 0.3, 0.3, 0.0, 0.5)


POINTERS = [  # the file, what is opened, and by what
    ("hf/model.safetensors", "hf", load_lvlm),
    ("hf-bin/pytorch_model.bin", "hf-bin", load_lvlm),
    ("hf/tokenizer.json", "hf", load_lvlm),
    ("hf/chat_template.jinja", "hf", load_lvlm),
    ("bin/pytorch_model-00001-of-00002.bin", "bin", load_lvlm),
    ("safetensors/model.safetensors", "safetensors", load_lvlm),
    ("bin/tokenizer.model", "bin", load_lvlm),
    ("pretrain/mm_projector.bin", "pretrain", load_lvlm),
    ("vicuna-tiny/pytorch_model.bin", "pretrain", load_lvlm),
    (f"{CLIP}/pytorch_model.bin", "bin", load_lvlm),
    ("llama/model.safetensors", "minigpt4", load_lvlm),
    ("eva_vit_g.pth", "minigpt4", load_lvlm),
    ("projector.pth", "minigpt4", load_lvlm),
    ("tuned.pth", "official", load_lvlm),
    ("dino/model.safetensors", "dino", load_halc_detector),
    ("blip/model.safetensors", "blip", ImageTextMatcher),
    ("base/model.safetensors", "base", lambda path: load_base(path, load_lvlm(path.parent / "minigpt4"))),
    ("image.jpg", "image.jpg", load_image),
    ("captions.json", "captions.json", load_image_list),
    ("heads.json", "heads.json", load_heads),
]


@pytest.mark.parametrize(("file", "opened", "read"), POINTERS)
def test_a_git_lfs_pointer_is_named_as_such(file: str, opened: str, read: Callable[[Path], object], copied):
    (copied / file).write_text(POINTER)
    with pytest.raises(
        ValueError, match="a Git LFS pointer, not the file itself; get it with `git lfs pull`"
    ) as raised:
        read(copied / opened)
    assert file in str(raised.value) and "\n" not in str(raised.value)


def test_a_pointer_that_nobody_reads_stops_nothing(copied):
    """Beside safetensors, .bin files are often left as pointers; so is a tokenizer.model beside tokenizer.json."""
    for name in ("pytorch_model.bin", "tokenizer.model", "flax_model.msgpack", "model.onnx"):
        (copied / "hf" / name).write_text(POINTER)
    load_lvlm(copied / "hf")


class Malicious:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    ("file", "opened"),
    [
        ("hf-bin/pytorch_model.bin", "hf-bin"),
        ("bin/pytorch_model-00002-of-00002.bin", "bin"),
        ("pretrain/mm_projector.bin", "pretrain"),
        ("eva_vit_g.pth", "minigpt4"),
        ("tuned.pth", "official"),
    ],
)
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: torch.save({"x": Malicious()}, path),
        lambda path: path.write_text("<html>not found</html>"),
        lambda path: path.write_bytes(path.read_bytes()[:500]),
    ],
)
def test_no_message_repeats_the_advice_to_load_pickles(file, opened, damage, copied, capsys):
    damage(copied / file)
    with pytest.raises(ValueError, match=Path(file).name) as raised:
        load_lvlm(copied / opened)
    assert "weights_only" not in str(raised.value) and "\n" not in str(raised.value)
    assert "run" not in capsys.readouterr().out


def test_what_torch_says_elsewhere_is_cut_too(tmp_path, capsys):
    torch.save(Malicious(), tmp_path / "state.pt")
    for wrapped in (False, True):
        with pytest.raises(SystemExit), errors_in_one_line(debug=False):
            try:
                torch.load(tmp_path / "state.pt", weights_only=True)
            except Exception as error:
                raise (ValueError(str(error)) if wrapped else error) from None
        said = capsys.readouterr().err
        assert "weights_only" not in said and "not a file of tensors alone" in said


@pytest.mark.parametrize("layout", ["hf", "bin", "minigpt4"])
def test_json_that_nobody_reads_stops_nothing(layout, copied):
    (copied / layout / "._config.json").write_bytes(b"\x00\x05\x16\x07Mac OS X")
    (copied / layout / "answers.json").write_text('{"question_id": 1}\n{"question_id": 2}\n')
    (copied / layout / "trainer_state.json").write_text("{")
    load_lvlm(copied / layout)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "processor_config.json", "tokenizer.json"])
def test_json_that_is_read_must_be_json(name, copied):
    (copied / "hf" / name).write_text("{")
    with pytest.raises(ValueError, match=rf"{name}: not JSON"):
        load_lvlm(copied / "hf")


@pytest.mark.parametrize("family", ["hf", "llava_next", "gemma3"])
def test_a_processor_of_images_of_another_size_is_named(family, copied, tmp_path):
    """As a damaged processor_config.json makes them; transformers would say only that sizes differ."""
    folder = copied / "hf"
    if family != "hf":
        folder = tmp_path / family
        save_tiny_family(family, folder)
    lvlm = load_lvlm(folder)
    batch = lvlm.encode([Image.new("RGB", (9, 9))], ["what"])
    side = lvlm.model.config.vision_config.image_size
    assert batch.inputs["pixel_values"].shape[-2:] == (side, side)
    sizes = lvlm.processor.image_processor
    for name in ("size", "crop_size"):
        if getattr(sizes, name, None):
            setattr(sizes, name, {"height": side + 8, "width": side + 8})
    if hasattr(sizes, "image_grid_pinpoints"):
        sizes.image_grid_pinpoints = [[side + 8, side + 8]]
    with pytest.raises(
        ValueError, match=rf"{folder.name}: its processor makes images of {side + 8} x {side + 8} pixels"
    ):
        lvlm.encode([Image.new("RGB", (9, 9))], ["what"])


def add_padding(folder: Path, token: str) -> None:
    """Add a token to pad with, as trainers do, without making the matrices larger."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": token})
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("family", ["llava_next", "qwen2_5_vl", "chameleon"])
def test_padding_beyond_the_embeddings_is_refused_at_loading(family, tmp_path):
    save_tiny_family(family, tmp_path)
    load_lvlm(tmp_path)
    add_padding(tmp_path, "[PAD]")
    line = rf"{tmp_path.name}: .*'\[PAD\]' \({VOCABULARY}\) is beyond the model's {VOCABULARY} embeddings; resize them"
    with pytest.raises(ValueError, match=line):
        load_lvlm(tmp_path)


def test_padding_of_minigpt4_and_an_image_id_beyond_the_embeddings(copied):
    """The placeholder of an image has no embedding and needs none; any other token does."""
    lvlm = load_lvlm(copied / "minigpt4")
    assert lvlm.model.config.image_token_id == lvlm.model.get_input_embeddings().num_embeddings
    lvlm.tokenizer.add_tokens(["<new>"])
    with pytest.raises(ValueError, match=r"'<new>' \(\d+\) is beyond the model's \d+ embeddings"):
        lvlm.encode([Image.new("RGB", (8, 8))], ["what is <new>?"])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_that_names_a_kernel_which_is_not_installed(family, tmp_path):
    save_tiny_family(family, tmp_path)
    expected = load_lvlm(tmp_path).model
    config = json.loads((tmp_path / "config.json").read_text())
    for own in [config, *(value for value in config.values() if isinstance(value, dict) and "model_type" in value)]:
        own["attn_implementation"] = own["_attn_implementation"] = "flash_attention_2"
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = load_lvlm(tmp_path).model
    assert model.config.get_text_config()._attn_implementation == "sdpa"
    for (name, tensor), other in zip(expected.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name


def test_the_same_for_minigpt4_and_for_a_base_model(copied):
    config = json.loads((copied / "llama" / "config.json").read_text())
    config |= {"attn_implementation": "flash_attention_2", "_attn_implementation": "flash_attention_2"}
    (copied / "llama" / "config.json").write_text(json.dumps(config))
    lvlm = load_lvlm(copied / "minigpt4")
    assert lvlm.model.config.text_config._attn_implementation == "sdpa"
    base = load_base(copied / "llama", lvlm)
    assert isinstance(base, LlamaForCausalLM) and base.config.num_attention_heads == N_HEADS
