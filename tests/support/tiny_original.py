"""Tiny random LLaVAs in their original layouts; names and tokenizers are made here from transformers' models anew."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from sentencepiece import sentencepiece_model_pb2
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
)

from tests.support.tiny_llava15 import AFTER, BEFORE, OBJECTS, PATCH, llama_tokenizer

CLIP = "clip-vit-tiny-patch14-28"
LLAMA = llama_tokenizer(BEFORE + AFTER)
TOKENS = LLAMA.convert_ids_to_tokens(range(len(LLAMA)))
N_WORDS = len(TOKENS)
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # kinds of pieces
CHATML = ["<|im_start|>", "<|im_end|>"]


def save_tokenizer_model(folder: Path, tokens: list[str], dummy_prefix: bool = True) -> None:
    """A sentencepiece model of pieces merged in the order of their ids; the first three are special."""
    model = sentencepiece_model_pb2.ModelProto()
    for place, token in enumerate(tokens):
        kind = NORMAL
        if place < 3:
            kind = CONTROL if place else UNKNOWN
        elif token in CHATML:
            kind = USER_DEFINED
        elif token.startswith("<0x"):
            kind = BYTE
        model.pieces.add(piece=token, score=-place, type=kind)
    model.trainer_spec.model_type = sentencepiece_model_pb2.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.vocab_size = len(tokens)
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = dummy_prefix
    model.normalizer_spec.remove_extra_whitespaces = False
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())


def added_token(content: str) -> dict:
    return {"__type": "AddedToken", "content": content, "lstrip": False, "normalized": False, "rstrip": False}


# as in llava-v1.5-7b and llava-v1.6-34b
VICUNA_TOKENIZER = {"add_bos_token": True, "add_eos_token": False, "bos_token": added_token("<s>"), "legacy": False}
VICUNA_TOKENIZER |= {"eos_token": added_token("</s>"), "unk_token": added_token("<unk>"), "pad_token": None}
VICUNA_TOKENIZER |= {"tokenizer_class": "LlamaTokenizer", "padding_side": "right", "model_max_length": 2048}
YI_TOKENIZER = {"add_bos_token": False, "add_eos_token": False, "bos_token": "<|startoftext|>", "legacy": True}
YI_TOKENIZER |= {"eos_token": "<|im_end|>", "unk_token": "<unk>", "pad_token": "<unk>", "padding_side": "right"}
YI_TOKENIZER |= {"tokenizer_class": "LlamaTokenizer", "chat_template": "{{ messages[0].content }}"}


def yi_tokens() -> list[str]:
    """Pieces as Yi's, with tokens of chatml among them; words stand with and without a blank."""
    words = [*BEFORE, *AFTER, "Answer", "ystem", "ser", "ssistant", *(f"▁{name}" for name in OBJECTS)]
    words = [word for word in words if not word.startswith("<")]
    chains = dict.fromkeys(word[:end] for word in words for end in range(2, len(word) + 1))
    characters = sorted({character for word in words for character in word})
    special = ["<unk>", "<|startoftext|>", "<|endoftext|>", *CHATML]
    return [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *characters, *chains]


def original_name(name: str) -> str:
    """What LLaVA calls a weight of transformers' model."""
    for target, own in (
        ("model.multi_modal_projector.linear_1.", "model.mm_projector.0."),
        ("model.multi_modal_projector.linear_2.", "model.mm_projector.2."),
        ("model.vision_tower.", "model.vision_tower.vision_tower.vision_model."),
        ("model.language_model.", "model."),
    ):
        if name.startswith(target):
            return own + name[len(target) :]
    return name


def original_weights(model: LlavaForConditionalGeneration | LlavaNextForConditionalGeneration, n_words: int) -> dict:
    """The model's weights by LLaVA's names, its vocabulary cut to `n_words`, with buffers of old versions."""
    weights = {original_name(name): tensor.clone() for name, tensor in model.state_dict().items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][:n_words].clone()
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    weights["model.vision_tower.vision_tower.vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    return weights


def is_towers(name: str) -> bool:
    return name.startswith("model.vision_tower.")


def save_weights(folder: Path, weights: dict[str, Tensor], stem: str, n_shards: int = 1) -> None:
    """As one file or as shards with their index; `stem` is pytorch_model.bin or model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    name, ending = stem.split(".")
    names = list(weights)
    cuts = [len(names) * shard // n_shards for shard in range(n_shards + 1)]
    places = {}
    for shard in range(n_shards):
        own = {key: weights[key] for key in names[cuts[shard] : cuts[shard + 1]]}
        file = stem if n_shards == 1 else f"{name}-{shard + 1:05d}-of-{n_shards:05d}.{ending}"
        if ending == "bin":
            torch.save(own, folder / file)
        else:
            save_file(own, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(own, file)
    if n_shards > 1:
        index = {"metadata": {}, "weight_map": places}
        (folder / f"{stem}.index.json").write_text(json.dumps(index))


def save_clip(folder: Path, weights: dict[str, Tensor], vision: CLIPVisionConfig) -> None:
    """A whole CLIP as openai's: the vision part's weights and some of the rest."""
    tower = {
        name.removeprefix("model.vision_tower.vision_tower."): weights[name] for name in weights if is_towers(name)
    }
    rest = {"logit_scale": torch.tensor(2.0), "text_model.final_layer_norm.weight": torch.ones(3)}
    rest |= {"visual_projection.weight": torch.ones(2, 2), "text_projection.weight": torch.ones(2, 2)}
    save_weights(folder, tower | rest, "pytorch_model.bin")
    CLIPConfig(vision_config=vision.to_dict()).save_pretrained(folder)


def original_fields(config: LlavaConfig | LlavaNextConfig, n_words: int, **changes) -> dict:
    """config.json as LLaVA writes it."""
    text = config.text_config
    copied = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"]
    copied += ["hidden_act", "max_position_embeddings", "rms_norm_eps", "initializer_range", "tie_word_embeddings"]
    fields = {name: getattr(text, name) for name in copied}
    fields |= {"_name_or_path": "./checkpoints/vicuna-tiny", "architectures": ["LlavaLlamaForCausalLM"]}
    fields |= {"model_type": "llava", "torch_dtype": "float32", "vocab_size": n_words, "bos_token_id": 1}
    fields |= {"eos_token_id": 2, "pad_token_id": 0, "rope_scaling": None, "transformers_version": "4.31.0"}
    fields |= {"rope_theta": text.rope_parameters["rope_theta"], "use_cache": True, "use_mm_proj": True}
    fields |= {"mm_vision_tower": f"openai/{CLIP}", "mm_hidden_size": config.vision_config.hidden_size}
    fields |= {"mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "mm_projector_type": "mlp2x_gelu"}
    fields |= {"mm_use_im_start_end": False, "mm_use_im_patch_token": False, "image_aspect_ratio": "pad"}
    return fields | {"tune_mm_mlp_adapter": False, "unfreeze_mm_vision_tower": False} | changes


def write_llava15(
    folder: Path,
    model: LlavaForConditionalGeneration,
    weights: dict[str, Tensor],
    stem: str = "pytorch_model.bin",
    n_shards: int = 1,
    tower_inside: bool = False,
    **fields,
) -> Path:
    """A LLaVA-1.5 of `weights`, its tower inside or in a folder beside it."""
    kept = {name: tensor for name, tensor in weights.items() if tower_inside or not is_towers(name)}
    save_weights(folder, kept, stem, n_shards)
    save_clip(folder.parent / CLIP, weights, model.config.vision_config)
    (folder / "config.json").write_text(json.dumps(original_fields(model.config, N_WORDS, **fields)))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "temperature": 0.9, "top_p": 0.6}))
    (folder / "tokenizer_config.json").write_text(json.dumps(VICUNA_TOKENIZER))
    save_tokenizer_model(folder, TOKENS)
    return folder


def write_projector(folder: Path, model: LlavaForConditionalGeneration, weights: dict[str, Tensor], **fields) -> Path:
    """LLaVA's first stage: a projector and config.json; the base language model and the tower lie beside it."""
    base = folder.parent / "vicuna-tiny"
    write_llava15(base, model, {name: weight for name, weight in weights.items() if "mm_projector" not in name})
    plain = original_fields(model.config, N_WORDS)
    plain = {name: value for name, value in plain.items() if not name.startswith("mm_")} | {"model_type": "llama"}
    (base / "config.json").write_text(json.dumps(plain))
    folder.mkdir()
    torch.save(
        {name: weight for name, weight in weights.items() if "mm_projector" in name}, folder / "mm_projector.bin"
    )
    told = original_fields(model.config, N_WORDS, image_aspect_ratio="square", **fields)
    (folder / "config.json").write_text(json.dumps(told))
    return folder


def write_llava16(folder: Path, model: LlavaNextForConditionalGeneration, tokens: list[str], **fields) -> Path:
    """A LLaVA-1.6 on Yi, its tower inside."""
    save_weights(folder, original_weights(model, len(tokens)), "model.safetensors", n_shards=2)
    save_clip(folder.parent / CLIP, {}, model.config.vision_config)
    told = {"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad", "eos_token_id": 2}
    told |= {"image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]], **fields}
    (folder / "config.json").write_text(json.dumps(original_fields(model.config, len(tokens), **told)))
    (folder / "tokenizer_config.json").write_text(json.dumps(YI_TOKENIZER))
    save_tokenizer_model(folder, tokens, dummy_prefix=False)
    return folder


def tiny_llava16(n_words: int) -> LlavaNextForConditionalGeneration:
    """A random LLaVA-1.6, grouped-query, with rope of its own; four tiles at most."""
    torch.manual_seed(6)
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            patch_size=PATCH,
            projection_dim=32,
        ),
        text_config=LlamaConfig(
            vocab_size=n_words + 1,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            initializer_range=0.3,
            rope_theta=5000.0,
            pad_token_id=0,
        ),
        image_token_index=n_words,
        image_grid_pinpoints=[[56, 28], [28, 56], [56, 56]],
        image_seq_length=4,
    )
    return LlavaNextForConditionalGeneration(config).eval()
