"""MiniGPT-4 from files in the published layouts: prompts, pixels, logits, batches, text, fine-tuning; bad files."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from test_ablation import ablate_one_by_one, assert_same
from tiny import SIDE
from tiny_llava15 import MEAN, OBJECTS, SPREAD
from tiny_minigpt4 import AFTER, BEFORE, DEPTH, PATCH, TEXT_ONLY, VISION, WIDTH, name_parts, save_tiny_parts
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm, linear
from torch.testing import assert_close
from transformers import LlamaForCausalLM

from llava_hh.attribution.ablation import ablate_every_head
from llava_hh.attribution.targets import find_targets
from llava_hh.generation import caption_images, generate_greedily
from llava_hh.heads import Head
from llava_hh.interventions import DeactivateText
from llava_hh.models.lvlm import DESCRIBE, Lvlm, load_lvlm
from llava_hh.models.minigpt4_model import MiniGpt4Config, MiniGpt4ForConditionalGeneration
from llava_hh.runs import Run, describe_model
from llava_hh.scripts import targeted_finetune

ROOT = Path(__file__).parents[1]
PROMPTS = ["harness", "official"]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """The published files, and our folder `minigpt4` beside them."""
    folder = tmp_path_factory.mktemp("parts")
    save_tiny_parts(folder)
    name_parts(folder, "official", "official", fine_tuned="../tuned.pth")
    return folder


@pytest.fixture(scope="module")
def lvlm(files) -> Lvlm:
    return load_lvlm(files / "minigpt4")


@pytest.fixture(scope="module")
def official(files) -> Lvlm:
    """MiniGPT-4's own prompt, and what TF-HH fine-tuned."""
    return load_lvlm(files / "official")


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


PHOTOS = [photo(64, 48), photo(30, 70, seed=1), photo(50, 50, seed=2)]


def pieces(lvlm: Lvlm, ids: Tensor | list[int]) -> list[str]:
    return lvlm.tokenizer.convert_ids_to_tokens(list(ids))


# --- prompts and pixels


@pytest.mark.parametrize("prompt", PROMPTS)
def test_token_layout(prompt, request):
    lvlm = request.getfixturevalue({"harness": "lvlm"}.get(prompt, prompt))
    batch = lvlm.encode([PHOTOS[0]], [DESCRIBE])
    ids = batch.inputs["input_ids"][0]
    assert pieces(lvlm, ids) == BEFORE[prompt] + ["<ImageHere>"] * 4 + AFTER[prompt]
    start = {"harness": 8, "official": 7}[prompt]
    assert batch.image_mask[0].nonzero().flatten().tolist() == list(range(start, start + 4))
    assert batch.response_start == [len(ids)]
    batch = lvlm.encode([None], ["dog"])
    assert pieces(lvlm, batch.inputs["input_ids"][0]) == TEXT_ONLY[prompt]
    assert "pixel_values" not in batch.inputs and not batch.image_mask.any()


def test_sizes_of_the_published_model():
    config = MiniGpt4Config.from_pretrained(ROOT / "checkpoints/minigpt4")
    assert set(config.parts) == {"language_model", "vision_tower", "projector"}
    assert config.image_length == 64
    vision = config.vision_config
    assert (vision.num_hidden_layers, vision.hidden_size, vision.num_attention_heads) == (39, 1408, 16)
    assert vision.intermediate_size == int(1408 * 4.3637) and vision.layer_norm_eps == 1e-6
    assert config.prompt == "harness"
    with torch.device("meta"):
        shapes = {name: tuple(own.shape) for name, own in MiniGpt4ForConditionalGeneration(config).state_dict().items()}
    assert shapes["model.llama_proj.weight"] == (4096, 5632)
    assert shapes["model.vision_tower.embeddings.position_embedding"] == (1, 257, 1408)
    assert shapes["lm_head.weight"] == (32000, 4096)


@pytest.mark.parametrize("image", PHOTOS, ids=["wide", "tall", "square"])
def test_pixels_are_squashed_and_normalised(lvlm, image):
    small = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    expected = (np.asarray(small) / 255 - MEAN) / SPREAD
    pixels = lvlm.encode([image], [DESCRIBE]).inputs["pixel_values"][0]
    assert_close(pixels, torch.tensor(expected).permute(2, 0, 1).float(), atol=1e-5, rtol=1e-5)


def test_a_prompt_with_the_placeholder_is_refused(lvlm):
    with pytest.raises(ValueError, match="'what is <ImageHere>' holds <ImageHere>"):
        lvlm.encode([PHOTOS[0]], ["what is <ImageHere>"])


# --- logits


def plain_eva(tensors: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """LAVIS's formulas on LAVIS's tensors, head by head; (position, width) of one image, after ln_vision."""
    states = conv2d(pixels[None], tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"], stride=PATCH)
    states = torch.cat([tensors["cls_token"][0], states[0].flatten(1).T]) + tensors["pos_embed"][0]
    d_head = WIDTH // VISION["num_attention_heads"]
    for block in range(DEPTH):
        own = {name.split(".", 2)[2]: each for name, each in tensors.items() if name.startswith(f"blocks.{block}.")}
        normed = layer_norm(states, (WIDTH,), own["norm1.weight"], own["norm1.bias"], 1e-6)
        to_q, to_k, to_v = own["attn.qkv.weight"].split(WIDTH)
        q, k, v = (
            linear(normed, to_q, own["attn.q_bias"]),
            linear(normed, to_k),
            linear(normed, to_v, own["attn.v_bias"]),
        )
        heads = []
        for head in range(VISION["num_attention_heads"]):
            part = slice(head * d_head, (head + 1) * d_head)
            heads.append((q[:, part] @ k[:, part].T / math.sqrt(d_head)).softmax(-1) @ v[:, part])
        states = states + linear(torch.cat(heads, -1), own["attn.proj.weight"], own["attn.proj.bias"])
        normed = layer_norm(states, (WIDTH,), own["norm2.weight"], own["norm2.bias"], 1e-6)
        inner = gelu(linear(normed, own["mlp.fc1.weight"], own["mlp.fc1.bias"]))
        states = states + linear(inner, own["mlp.fc2.weight"], own["mlp.fc2.bias"])
    return layer_norm(states, (WIDTH,), eps=1e-5)


def plain_logits(files: Path, ids: list[int], at: int, pixels: Tensor, tuned: bool) -> Tensor:
    """Llama's own model on embeddings put together by hand; the image's four stand from `at` on."""
    llama = LlamaForCausalLM.from_pretrained(files / "llama")
    projector = torch.load(files / "projector.pth", weights_only=True)["model"]
    if tuned:
        changed = torch.load(files / "tuned.pth", weights_only=True)["model"]
        names = {name.removeprefix("llama_model."): each for name, each in changed.items()}
        assert not llama.load_state_dict(names, strict=False).unexpected_keys
    patches = plain_eva(torch.load(files / "eva_vit_g.pth", weights_only=True), pixels)[1:]
    image = []
    for place in range(0, len(patches), 4):
        joined = torch.cat([patches[place], patches[place + 1], patches[place + 2], patches[place + 3]])
        image.append(linear(joined, projector["llama_proj.weight"], projector["llama_proj.bias"]))
    embed = llama.get_input_embeddings()
    before, after = embed(torch.tensor(ids[:at])), embed(torch.tensor(ids[at + 4 :]))
    return llama(inputs_embeds=torch.cat([before, torch.stack(image), after])[None]).logits[0]


@torch.no_grad()
@pytest.mark.parametrize("prompt", PROMPTS)
def test_logits_equal_plain_formulas(prompt, files, request):
    lvlm = request.getfixturevalue({"harness": "lvlm"}.get(prompt, prompt))
    batch = lvlm.encode([PHOTOS[1]], [DESCRIBE])
    logits = lvlm.model(**batch.inputs).logits[0]
    ids, at = batch.inputs["input_ids"][0].tolist(), len(BEFORE[prompt])
    expected = plain_logits(files, ids, at, batch.inputs["pixel_values"][0], tuned=prompt == "official")
    assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    other = lvlm.model(**batch.inputs | {"pixel_values": lvlm.encode(PHOTOS[:1], [""]).inputs["pixel_values"]}).logits[
        0
    ]
    assert (other - logits)[at:].abs().max() > 0.01


def test_a_file_may_have_ln_vision(files, lvlm, tmp_path):
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    content = torch.load(files / "projector.pth", weights_only=True)
    own = {"ln_vision.weight": torch.linspace(0.5, 2, WIDTH), "ln_vision.bias": torch.linspace(-1, 1, WIDTH)}
    torch.save({"model": content["model"] | own}, tmp_path / "projector.pth")
    norm = load_lvlm(tmp_path / "minigpt4").model.model.vision_tower.post_layernorm
    assert torch.equal(norm.weight, own["ln_vision.weight"]) and torch.equal(norm.bias, own["ln_vision.bias"])
    norm = lvlm.model.model.vision_tower.post_layernorm
    assert (norm.weight == 1).all() and not norm.bias.any()


# --- batches, attribution, text


def test_a_batch_of_mixed_prompts_equals_single_rows(lvlm):
    images, prompts = [PHOTOS[0], None, PHOTOS[1], PHOTOS[2]], [DESCRIBE, "dog", "describe the dog", "a car"]
    for edits in ([], [DeactivateText([Head(1, 0), Head(3, 2)], 0.2)]):
        together = generate_greedily(lvlm, lvlm.encode(images, prompts), 8, edits)
        for image, prompt, answer in zip(images, prompts, together, strict=True):
            assert generate_greedily(lvlm, lvlm.encode([image], [prompt]), 8, edits) == [answer]
        assert len({tuple(answer.token_ids) for answer in together}) == 4
        assert set(lvlm.tokenizer.decode(together[0].token_ids).split()) <= set(OBJECTS)


def test_generation_is_greedy_and_pads_with_unk(lvlm):
    config = lvlm.model.generation_config
    assert (config.do_sample, config.eos_token_id, config.pad_token_id) == (None, 2, 0)
    assert config.suppress_tokens is None and lvlm.end_token_ids == [2]
    assert lvlm.model.config.image_token_id == lvlm.model.lm_head.out_features  # cannot be said


def test_attribution_equals_the_loop(lvlm):
    answer = lvlm.tokenizer.convert_tokens_to_ids(["▁dog", "▁cat"])
    batch = lvlm.encode([PHOTOS[0]], [DESCRIBE], [answer])
    positions = [batch.response_start[0] - 1, batch.response_start[0]]
    ours = ablate_every_head(lvlm.model, batch.inputs, positions, answer, modules=True)
    assert_same(ours, ablate_one_by_one(lvlm.model, batch.inputs, positions, answer, modules=True))


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("▁dog . ▁cat", "dog. cat"),
        ("<s> ▁dog <unk> . </s>", "dog."),
        ("▁dog . ▁### H uman : ▁cat", "dog."),
        ("▁cat Ass istant : ▁dog . ▁### ▁cat", "dog."),
        ("▁###", ""),
    ],
)
def test_what_an_answer_says(lvlm, said, kept):
    """As MiniGPT-4's code cuts it; and targets are found in what is left."""
    ids = lvlm.tokenizer.convert_tokens_to_ids(said.split())
    assert lvlm.answer_text(ids) == kept
    if "dog" in kept:
        mention = {"word": "dog", "node": "dog", "start": kept.index("dog"), "hallucinated": True}
        (target,) = find_targets(lvlm.tokenizer, ids, kept, [mention])
        assert said.split()[target.index] == "▁dog"


def test_captions_are_cut_and_keep_their_tokens(lvlm, tmp_path, monkeypatch):
    said = lvlm.tokenizer.convert_tokens_to_ids(["▁dog", ".", "▁###", "▁cat", "▁car"])
    PHOTOS[0].save(tmp_path / "a.png")
    generate = type(lvlm.model).generate

    def say(model, **inputs):
        return torch.cat([generate(model, **inputs)[:, : inputs["input_ids"].shape[1]], torch.tensor([said])], 1)

    monkeypatch.setattr(type(lvlm.model), "generate", say)
    settings = {"prompt": DESCRIBE, "model_id": "m", "max_new_tokens": 5, "batch_size": 1}
    (row,) = caption_images(lvlm, [{"image_id": 1, "file_name": "a.png"}], tmp_path, Run(tmp_path), **settings)
    assert row["text"] == "dog." and row["token_ids"] == said


# --- fine-tuning


@pytest.mark.parametrize("prompt", PROMPTS)
def test_conversations(prompt, request):
    lvlm = request.getfixturevalue({"harness": "lvlm"}.get(prompt, prompt))
    turns = [(DESCRIBE, "dog"), ("cat", "car bird")]
    batch, labels = lvlm.encode_conversations([PHOTOS[0], None], [turns, turns[1:]], 100)
    begin = TEXT_ONLY[prompt]
    again = [piece.replace("▁dog", "▁cat") for piece in begin]
    first = BEFORE[prompt] + ["<ImageHere>"] * 4 + AFTER[prompt]
    rows = [[*first, "▁dog", "</s>", *again[1:], "▁car", "▁bird", "</s>"], [*again, "▁car", "▁bird", "</s>"]]
    for row, expected in enumerate(rows):
        real = batch.inputs["attention_mask"][row].bool()
        assert pieces(lvlm, batch.inputs["input_ids"][row][real]) == expected
        answered = [piece for piece, label in zip(expected, labels[row], strict=False) if label >= 0]
        assert answered == [["▁dog", "</s>"], []][row] + ["▁car", "▁bird", "</s>"]


def test_targeted_finetuning_leaves_an_ordinary_folder(files, tmp_path):
    """From the parts to a folder that holds its weights: rows of the heads and the vocabulary move, nothing else."""
    PHOTOS[0].save(tmp_path / "a.png")
    said = [{"from": "human", "value": "<image>\ndescribe"}, {"from": "gpt", "value": "dog cat"}]
    data = [{"id": str(number), "image": "a.png", "conversations": said} for number in range(2)]
    (tmp_path / "data.json").write_text(json.dumps(data))
    (tmp_path / "heads.json").write_text(json.dumps({"hal_heads": [[3, 1], [0, 2]]}))
    flags = ["--model", files / "official", "--heads", tmp_path / "heads.json", "--top-k", 2]
    flags += ["--data", tmp_path / "data.json", "--image-folder", tmp_path, "--steps", 2, "--batch-size", 2]
    flags += ["--gradient-checkpointing"]
    targeted_finetune.main([str(flag) for flag in [*flags, "--learning-rate", 0.01, "--out", tmp_path / "out"]])
    tuned, start = load_lvlm(tmp_path / "out/model"), load_lvlm(files / "official")
    before, after = start.model.state_dict(), tuned.model.state_dict()
    changed = {
        name: (before[name] != after[name]).any(1).nonzero().flatten().tolist()
        for name in before
        if not torch.equal(before[name], after[name])
    }
    assert {name.split("language_model.")[-1] for name in changed} == {
        "lm_head.weight",
        *(f"layers.{layer}.self_attn.{kind}_proj.weight" for layer in (0, 3) for kind in "qk"),
    }
    assert {row // 8 for name, rows in changed.items() if "layers.3" in name for row in rows} == {1}
    batch = tuned.encode([PHOTOS[0]], [DESCRIBE])
    assert pieces(tuned, batch.inputs["input_ids"][0])[:7] == BEFORE["official"]
    with torch.no_grad():
        for name in changed:
            before[name].copy_(after[name])
        assert torch.equal(tuned.model(**batch.inputs).logits, start.model(**batch.inputs).logits)
    assert tuned.model.config.parts is None and tuned.model.generation_config.eos_token_id == 2
    assert len(load_file(tmp_path / "out/model/model.safetensors")) == len(after)


# --- the folder and its parts


def test_a_folder_is_told_apart_by_its_parts(files):
    weights = describe_model(files / "minigpt4")["weights"]
    assert sorted(weights) == ["eva_vit_g.pth", "model.safetensors", "projector.pth"]
    assert weights["projector.pth"] == (files / "projector.pth").stat().st_size
    assert "tuned.pth" in describe_model(files / "official")["weights"]


def test_absolute_paths_and_another_type(files, tmp_path):
    folder = name_parts(
        tmp_path,
        language_model=str(files / "llama"),
        vision_tower=str(files / "eva_vit_g.pth"),
        projector=str(files / "projector.pth"),
    )
    lvlm = load_lvlm(folder, dtype=torch.bfloat16)
    assert {weight.dtype for weight in lvlm.model.parameters()} == {torch.bfloat16}
    batch = lvlm.encode([PHOTOS[0]], [DESCRIBE])
    assert lvlm.model(**batch.inputs).logits.isfinite().all()


def changed_file(files: Path, to: Path, name: str, change) -> None:
    content = torch.load(files / name, weights_only=True)
    change(content.get("model", content))
    torch.save(content, to / name)


def renamed(tensors: dict, begin: str, to: str) -> None:
    for name in [name for name in tensors if name.startswith(begin)]:
        tensors[to + name.removeprefix(begin)] = tensors.pop(name)


@pytest.mark.parametrize(
    ("begin", "to"),
    [("llama_model.", ""), ("llama_model.", "llama_model.base_model.model."), ("llama_model.", "base_model.model.")],
)
def test_prefixes_of_fine_tuned_files(begin, to, files, official, tmp_path):
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)

    def change(tensors):
        renamed(tensors, begin, to)
        tensors[f"{to}model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)

    changed_file(files, tmp_path, "tuned.pth", change)
    expected = official.model.state_dict()
    for name, tensor in load_lvlm(tmp_path / "official").model.state_dict().items():
        assert torch.equal(tensor, expected[name])


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BAD_FILES = [
    ("eva_vit_g.pth", cut_short, r"eva_vit_g\.pth: truncated, or no file of tensors \("),
    ("eva_vit_g.pth", lambda path: path.write_bytes(b""), r"eva_vit_g\.pth: truncated, or no file"),
    ("tuned.pth", lambda path: path.write_text("<html>"), r"tuned\.pth: truncated, or no file"),
    ("projector.pth", lambda path: torch.save({"model": [1, 2]}, path), r"projector\.pth: expected tensors by name"),
    ("projector.pth", lambda path: torch.save({"model": {}}, path), "weights missing: model.llama_proj.bias, model.ll"),
    ("tuned.pth", lambda path: torch.save({"model": {}}, path), r"tuned\.pth: no weight of the language model"),
    ("projector.pth", Path.unlink, r"config\.json: parts: projector: nothing at .*projector\.pth"),
    ("llama/model.safetensors", cut_short, r"llama: its weights cannot be read \("),
    ("llama/model.safetensors", Path.unlink, r"llama: its weights cannot be read \("),
    ("llama/config.json", Path.unlink, r"llama: no config\.json there; expected Llama-2"),
    ("llama/config.json", lambda path: path.write_text('{"model_type": "gpt2"}'), r"llama: a model of type 'gpt2'"),
]


@pytest.mark.parametrize(("name", "damage", "line"), BAD_FILES)
def test_a_bad_file_is_one_line(name, damage, line, files, tmp_path):
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    damage(tmp_path / name)
    with pytest.raises((ValueError, FileNotFoundError), match=line) as caught:
        load_lvlm(tmp_path / "official")
    assert "\n" not in str(caught.value)


BAD_NAMES = [
    ("eva_vit_g.pth", lambda own: own.pop("blocks.1.attn.v_bias"), "no place in the model: visual_encoder.blocks.1.at"),
    ("eva_vit_g.pth", lambda own: own.pop("pos_embed"), r"missing: model\.vision_tower\.embeddings\.position_emb"),
    ("eva_vit_g.pth", lambda own: own.update(gamma=torch.ones(1)), "no place in the model: visual_encoder.gamma"),
    ("eva_vit_g.pth", lambda own: renamed(own, "blocks.", "layers."), "layers.0.mlp.fc1.bias and 43 more"),
    ("projector.pth", lambda own: own.update({"Qformer.x": torch.ones(1)}), "no place in the model: Qformer.x"),
    (
        "projector.pth",
        lambda own: own.update({"llama_proj.weight": torch.ones(32, 9)}),
        r"projector.pth: llama_proj.weight has shape \(32, 9\); expected \(32, 64\)",
    ),
    ("tuned.pth", lambda own: renamed(own, "llama_model.lm", "head.lm"), "no place in the model: head.lm_head.weight"),
    (
        "tuned.pth",
        lambda own: own.update({"llama_model.model.layers.1.self_attn.q_proj.lora_A.weight": torch.ones(1)}),
        "no place in the model: llama_model.model.layers.1.self_attn.q_proj.lora_A.weight",
    ),
]


@pytest.mark.parametrize(("name", "change", "line"), BAD_NAMES)
def test_names_and_shapes_that_do_not_fit_are_listed(name, change, line, files, tmp_path):
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    changed_file(files, tmp_path, name, change)
    with pytest.raises(ValueError, match=line) as caught:
        load_lvlm(tmp_path / "official")
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"prompt": "vicuna"}, r"config\.json: prompt 'vicuna'; expected one of: harness, official"),
        ({"parts": ["llama"]}, r"parts \['llama'\]; expected a path for each of: language_model, projector, vision"),
        ({"parts": {"language_model": "x", "eva": "y"}}, "lack or wrongly have: eva, projector, vision_tower"),
        ({"parts": {"language_model": None}}, "expected a path for each of"),
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
