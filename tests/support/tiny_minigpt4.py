"""A random MiniGPT-4: as a model for the batches of tiny.py, and as the files that are published."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from llava_hh.models.minigpt4_model import MiniGpt4Config, MiniGpt4ForConditionalGeneration
from tests.support.tiny import D_HEAD, IMAGE_TOKEN, N_HEADS, SIDE, SPREAD, VOCABULARY
from tests.support.tiny_llava15 import OBJECTS, llama_tokenizer

# Runs a test of the fixture `llava` with MiniGPT-4 too.
also_of_minigpt4 = pytest.mark.parametrize("llava", ["mha", "gqa", "minigpt4 mha", "minigpt4 gqa"], indirect=True)

# Llama-2's pieces of both prompts, ids left aside; ▁ is a blank
PIECES = {  # before the image, after it, and a whole prompt without one
    "harness": ("<s> ▁### H uman : ▁< Img >", "▁### Ass istant :", "<s> ▁### H uman : ▁dog ▁### Ass istant :"),
    "official": ("<s> ▁[ INST ] ▁< Img >", "▁[ / INST ] ▁", "<s> ▁[ INST ] ▁dog ▁[ / INST ] ▁"),
}
QUESTION = "▁</ Img > ▁Please ▁describe ▁this ▁image ▁in ▁detail ."
BEFORE = {prompt: before.split() for prompt, (before, _, _) in PIECES.items()}
AFTER = {prompt: f"{QUESTION} {after}".split() for prompt, (_, after, _) in PIECES.items()}
TEXT_ONLY = {prompt: whole.split() for prompt, (_, _, whole) in PIECES.items()}
PATCH, DEPTH, WIDTH = 2, 3, 16  # 16 patches of a SIDE of 8: 4 image positions
VISION = {
    "hidden_size": WIDTH,
    "intermediate_size": 40,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
    "initializer_range": 0.3,
}
D_MODEL = N_HEADS * D_HEAD


def tiny_minigpt4(n_kv: int = N_HEADS, seed: int = 0) -> MiniGpt4ForConditionalGeneration:
    """About 65k parameters, with the vocabulary of tiny.py, whose image token is one of its words."""
    torch.manual_seed(seed)
    text = llama_config(VOCABULARY, num_key_value_heads=n_kv, bos_token_id=1, eos_token_id=None, pad_token_id=0)
    config = MiniGpt4Config(vision_config=VISION, text_config=text, image_token_id=IMAGE_TOKEN)
    return MiniGpt4ForConditionalGeneration(config).eval()


def llama_config(n_words: int, **more) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=n_words,
        hidden_size=D_MODEL,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=N_HEADS,
        max_position_embeddings=256,
        initializer_range=SPREAD,
        **more,
    )


def eva_tensors(generator: torch.Generator) -> dict[str, Tensor]:
    """eva_vit_g.pth: LAVIS's names, a block more than is used, and what follows the blocks."""

    def drawn(*shape: int, at: float = 0.0) -> Tensor:
        return at + 0.3 * torch.randn(*shape, generator=generator)

    tensors = {
        "cls_token": drawn(1, 1, WIDTH),
        "pos_embed": drawn(1, (SIDE // PATCH) ** 2 + 1, WIDTH),
        "patch_embed.proj.weight": drawn(WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": drawn(WIDTH),
        "norm.weight": drawn(WIDTH),
        "norm.bias": drawn(WIDTH),
        "head.weight": drawn(5, WIDTH),
    }
    for block in range(DEPTH + 1):
        own = {
            "norm1.weight": drawn(WIDTH, at=1.0),
            "norm1.bias": drawn(WIDTH),
            "attn.q_bias": drawn(WIDTH),
            "attn.v_bias": drawn(WIDTH),
            "attn.qkv.weight": drawn(3 * WIDTH, WIDTH),
            "attn.proj.weight": drawn(WIDTH, WIDTH),
            "attn.proj.bias": drawn(WIDTH),
            "norm2.weight": drawn(WIDTH, at=1.0),
            "norm2.bias": drawn(WIDTH),
            "mlp.fc1.weight": drawn(VISION["intermediate_size"], WIDTH),
            "mlp.fc1.bias": drawn(VISION["intermediate_size"]),
            "mlp.fc2.weight": drawn(WIDTH, VISION["intermediate_size"]),
            "mlp.fc2.bias": drawn(WIDTH),
        }
        tensors |= {f"blocks.{block}.{name}": tensor for name, tensor in own.items()}
    return tensors


def save_tiny_parts(folder: Path) -> None:
    """The published files under `folder`, and two folders of ours: minigpt4, and official, which is fine-tuned.

    Greedy captions are strings of objects.
    """
    pieces = [piece for prompt in BEFORE for piece in [*BEFORE[prompt], *AFTER[prompt]]]
    tokenizer = llama_tokenizer(pieces)
    torch.manual_seed(5)
    language = LlamaForCausalLM(llama_config(len(tokenizer), bos_token_id=1, eos_token_id=2, pad_token_id=None))
    objects = tokenizer.convert_tokens_to_ids([f"▁{word}" for word in OBJECTS])
    with torch.no_grad():
        for layer in language.model.layers:  # wider, so that captions vary
            for weight in layer.parameters():
                if weight.ndim == 2:
                    weight *= 4
        others = torch.ones(len(tokenizer), dtype=torch.bool)
        others[objects] = False
        language.lm_head.weight[others] = 0
    language.generation_config.update(do_sample=True, temperature=0.6, eos_token_id=2, pad_token_id=0)  # Llama-2-chat's
    language.save_pretrained(folder / "llama")
    tokenizer.save_pretrained(folder / "llama")
    generator = torch.Generator().manual_seed(6)
    torch.save(eva_tensors(generator), folder / "eva_vit_g.pth")
    projector = {
        "llama_proj.weight": 0.05 * torch.randn(D_MODEL, 4 * WIDTH, generator=generator),
        "llama_proj.bias": 0.05 * torch.randn(D_MODEL, generator=generator),
    }
    torch.save({"model": projector, "epoch": 4}, folder / "projector.pth")
    tuned = {
        f"llama_model.model.layers.{layer}.self_attn.{kind}_proj.weight": 0.5
        * torch.randn(D_MODEL, D_MODEL, generator=generator)
        for layer in (1, 3)
        for kind in "qk"
    }
    tuned["llama_model.lm_head.weight"] = language.lm_head.weight.detach().roll(1, 1)
    torch.save({"model": tuned}, folder / "tuned.pth")
    name_parts(folder)
    name_parts(folder, "official", "official", fine_tuned="../tuned.pth")


def name_parts(folder: Path, name: str = "minigpt4", prompt: str | None = None, **parts: str) -> Path:
    """A folder of ours beside the files of `save_tiny_parts`, with other parts than these where they are given."""
    named = {"language_model": "../llama", "vision_tower": "../eva_vit_g.pth", "projector": "../projector.pth"}
    config = {"model_type": "minigpt4", "vision_config": VISION, "parts": named | parts}
    ours = folder / name
    ours.mkdir()
    (ours / "config.json").write_text(json.dumps(config | ({"prompt": prompt} if prompt else {})))
    return ours
