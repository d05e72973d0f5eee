"""MiniGPT-4 from files in the published layouts: prompts, pixels, logits, batches, text, fine-tuning; bad files."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm, linear
from torch.testing import assert_close
from transformers import LlamaForCausalLM

from llava_hh.attention.interventions import DeactivateText
from llava_hh.attribution.ablation import ablate_every_head
from llava_hh.attribution.targets import find_targets
from llava_hh.decoding.generation import caption_images
from llava_hh.decoding.method import Greedy, generate_greedily
from llava_hh.heads import Head
from llava_hh.models.lvlm import DESCRIBE, Lvlm, load_lvlm
from llava_hh.runs.blocks import Run
from llava_hh.scripts import finetune
from tests.support.photos import PHOTOS
from tests.support.slow_ablation import ablate_one_by_one, assert_same
from tests.support.tiny import SIDE
from tests.support.tiny_llava15 import MEAN, OBJECTS, SPREAD
from tests.support.tiny_minigpt4 import (
    AFTER,
    BEFORE,
    DEPTH,
    PATCH,
    TEXT_ONLY,
    VISION,
    WIDTH,
    save_tiny_parts,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """The published files, and our folders beside them."""
    folder = tmp_path_factory.mktemp("parts")
    save_tiny_parts(folder)
    return folder


@pytest.fixture(scope="module")
def lvlm(files) -> Lvlm:
    return load_lvlm(files / "minigpt4")


@pytest.fixture(scope="module")
def official(files) -> Lvlm:
    """MiniGPT-4's own prompt, and what TF-HH fine-tuned."""
    return load_lvlm(files / "official")


@pytest.fixture(params=["harness", "official"])
def asked(request, lvlm, official) -> tuple[str, Lvlm]:
    """Each prompt, and the model that has it."""
    return request.param, lvlm if request.param == "harness" else official


def pieces(lvlm: Lvlm, ids: Tensor | list[int]) -> list[str]:
    return lvlm.tokenizer.convert_ids_to_tokens(list(ids))


# --- prompts and pixels


def test_token_layout(asked):
    prompt, lvlm = asked
    batch = lvlm.encode([PHOTOS[0]], [DESCRIBE])
    ids = batch.inputs["input_ids"][0]
    assert pieces(lvlm, ids) == BEFORE[prompt] + ["<ImageHere>"] * 4 + AFTER[prompt]
    start = {"harness": 8, "official": 7}[prompt]
    assert batch.image_mask[0].nonzero().flatten().tolist() == list(range(start, start + 4))
    assert batch.response_start == [len(ids)]
    batch = lvlm.encode([None], ["dog"])
    assert pieces(lvlm, batch.inputs["input_ids"][0]) == TEXT_ONLY[prompt]
    assert "pixel_values" not in batch.inputs and not batch.image_mask.any()


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
def test_logits_equal_plain_formulas(asked, files):
    prompt, lvlm = asked
    batch = lvlm.encode([PHOTOS[1]], [DESCRIBE])
    logits = lvlm.model(**batch.inputs).logits[0]
    ids, at = batch.inputs["input_ids"][0].tolist(), len(BEFORE[prompt])
    expected = plain_logits(files, ids, at, batch.inputs["pixel_values"][0], tuned=prompt == "official")
    assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert_close(lvlm.model(**batch.inputs, logits_to_keep=2).logits[0], logits[-2:], atol=1e-5, rtol=1e-5)
    assert lvlm.model.model.vision_tower.post_layernorm.eps == 1e-5  # 1e-6 would be too close to show
    other = lvlm.model(**batch.inputs | {"pixel_values": lvlm.encode(PHOTOS[:1], [""]).inputs["pixel_values"]}).logits[
        0
    ]
    assert (other - logits)[at:].abs().max() > 0.01


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
    settings = {"prompt": DESCRIBE, "model_id": "m", "max_new_tokens": 5, "batch_size": 1, "method": Greedy()}
    (row,) = caption_images(lvlm, [{"image_id": 1, "file_name": "a.png"}], tmp_path, Run(tmp_path), **settings)
    assert row["text"] == "dog." and row["token_ids"] == said


# --- fine-tuning


def test_conversations(asked):
    prompt, lvlm = asked
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


def test_an_answer_to_learn_ends_as_a_generated_one_does(asked):
    """The first of several end tokens, whatever the tokenizer calls its own."""
    _, lvlm = asked
    parts = lvlm.family.answer_parts(lvlm.processor, [(DESCRIBE, "dog")], True, [3, 2])
    assert [ids[-1] for ids, is_answer in parts if is_answer] == [3]


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
    finetune.main([str(flag) for flag in [*flags, "--learning-rate", 0.01, "--out", tmp_path / "out"]])
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
