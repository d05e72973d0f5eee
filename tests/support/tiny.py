"""Random models small enough to run in milliseconds, and batches for them; built from configurations, no download.

Weights are drawn wide (standard deviation 0.12), so that attention is far from uniform and heads differ.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
    MllamaConfig,
    MllamaForConditionalGeneration,
    PreTrainedModel,
)

VOCABULARY = 128
IMAGE_TOKEN = 120  # plain tokens are 5..119
N_LAYERS, N_HEADS, D_HEAD = 4, 4, 8
SIDE = 8  # pixels; patches of 4, so an image is 4 tokens
IMAGE_LENGTH = 4
SPREAD = 0.12


@dataclass
class TinyBatch:
    """A left-padded batch: what the model takes, and where the images are, (batch, position) bool."""

    inputs: dict[str, Tensor]
    image_mask: Tensor

    @property
    def real(self) -> Tensor:
        """(batch, position) bool, False at padding."""
        return self.inputs["attention_mask"].bool()


def text_settings(n_kv: int) -> dict:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": N_HEADS * D_HEAD,
        "intermediate_size": 64,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "num_key_value_heads": n_kv,
        "max_position_embeddings": 256,
        "initializer_range": SPREAD,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": None,
    }


def tiny_llava(n_kv: int = N_HEADS, seed: int = 0) -> LlavaForConditionalGeneration:
    """LLaVA of about 70k parameters; `n_kv` below 4 makes it grouped-query."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=4,
        projection_dim=32,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(**text_settings(n_kv)),
        image_token_id=IMAGE_TOKEN,
        image_seq_length=IMAGE_LENGTH,
        vision_feature_layer=-1,
    )
    return LlavaForConditionalGeneration(config).eval()


def tiny_llama(n_kv: int = N_HEADS, seed: int = 0) -> LlamaForCausalLM:
    """The same language model without an image part."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**text_settings(n_kv))).eval()


def tiny_mistral_gqa(sliding_window: int | None = None, seed: int = 0) -> MistralForCausalLM:
    """A grouped-query Mistral, 2 key heads for 4 query heads."""
    torch.manual_seed(seed)
    return MistralForCausalLM(MistralConfig(**text_settings(2), head_dim=D_HEAD, sliding_window=sliding_window)).eval()


def tiny_chameleon(swin_norm: bool = False, seed: int = 0) -> ChameleonForConditionalGeneration:
    """Early fusion: one configuration for all but the image tokenizer, whose codes are tokens 121-126."""
    torch.manual_seed(seed)
    settings = text_settings(2) | {"vocabulary_map": {"<image>": IMAGE_TOKEN}, "swin_norm": swin_norm}
    settings["vocabulary_map"] |= {f"IMGIMG{letter}Z": 121 + i for i, letter in enumerate("ABCDEF")}
    tokenizer = {"embed_dim": 8, "num_embeddings": 6, "latent_channels": 8, "resolution": SIDE, "base_channels": 32}
    tokenizer |= {"channel_multiplier": [1], "num_res_blocks": 1, "attn_resolutions": []}
    return ChameleonForConditionalGeneration(ChameleonConfig(**settings, vq_config=tokenizer)).eval()


def tiny_mllama(seed: int = 0) -> tuple[MllamaForConditionalGeneration, dict[str, Tensor]]:
    """Mllama of three layers, the middle one cross-attention with its gates open; and inputs, an image in each row."""
    torch.manual_seed(seed)
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_global_layers": 1,
        "attention_heads": 2,
        "intermediate_size": 32,
        "image_size": SIDE,
        "patch_size": 4,
        "vision_output_dim": 32,
        "intermediate_layers_indices": [0],
        "max_num_tiles": 2,
        "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
    }
    text = text_settings(2) | {"num_hidden_layers": 3, "cross_attention_layers": [1], "eos_token_id": 2}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0}
    config = MllamaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN)
    model = MllamaForConditionalGeneration(config).eval()
    for name, weight in model.named_parameters():
        if "gate" in name and weight.numel() == 1:
            weight.data.fill_(0.7)
    ids = draw_tokens(20, torch.Generator().manual_seed(seed)).view(2, 10)
    ids[:, 2] = IMAGE_TOKEN
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(2, 1, 2, 3, SIDE, SIDE),
        "aspect_ratio_ids": torch.full((2, 1), 2),
        "aspect_ratio_mask": torch.ones(2, 1, 2, dtype=torch.long),
        "cross_attention_mask": torch.ones(2, 10, 1, 2, dtype=torch.long),
    }
    return model, inputs


def llava_batch(rows: list[list[int | str]], seed: int = 0) -> TinyBatch:
    """Random tokens and pixels; each row lists its parts: a number of text tokens, or "image"."""
    generator = torch.Generator().manual_seed(seed)
    lines, n_images = [], 0
    for parts in rows:
        line = []
        for part in parts:
            n_images += part == "image"
            tokens = [torch.full((IMAGE_LENGTH,), IMAGE_TOKEN)] if part == "image" else [draw_tokens(part, generator)]
            line += tokens
        lines.append(torch.cat(line))
    length = max(map(len, lines))
    ids = torch.stack([torch.nn.functional.pad(line, (length - len(line), 0)) for line in lines])
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    if n_images:
        inputs["pixel_values"] = torch.randn(n_images, 3, SIDE, SIDE, generator=generator)
    return TinyBatch(inputs, ids == IMAGE_TOKEN)


def draw_tokens(n: int, generator: torch.Generator) -> Tensor:
    return torch.randint(5, IMAGE_TOKEN, (n,), generator=generator)


@torch.no_grad()
def decode_steps(model: PreTrainedModel, batch: TinyBatch, n_steps: int, tokens: Tensor | None = None) -> Tensor:
    """Last-row logits of a prefill and of `n_steps - 1` cached steps, (batch, step, vocabulary).

    Args:
        tokens: (batch, step) answers to feed; None feeds the argmax.
    """
    inputs, mask, cache, logits = dict(batch.inputs), batch.inputs["attention_mask"], None, []
    for step in range(n_steps):
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -inputs["input_ids"].shape[1] :]
        inputs |= {"attention_mask": mask, "position_ids": positions, "past_key_values": cache, "use_cache": True}
        outputs = model(**inputs)
        logits.append(outputs.logits[:, -1])
        token = logits[-1].argmax(-1) if tokens is None else tokens[:, step]
        inputs, cache = {"input_ids": token[:, None]}, outputs.past_key_values
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
    return torch.stack(logits, 1)
