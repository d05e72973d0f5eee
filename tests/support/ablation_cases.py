"""Random models with the inputs of one row and the positions whose targets attribution takes."""

import torch
from transformers import PreTrainedModel

from tests.support.tiny import llava_batch, tiny_chameleon, tiny_llama, tiny_llava, tiny_mistral_gqa, tiny_mllama
from tests.support.tiny_minigpt4 import tiny_minigpt4

TOKENS = torch.arange(5, 29)[None] * 7 % 110 + 5  # one row of 24 plain tokens


def llava_case() -> tuple[PreTrainedModel, dict, list[int]]:
    batch = llava_batch([[3, "image", 9]])
    return tiny_llava(), dict(batch.inputs), [8, 11, 15]


def padded_llava_case() -> tuple[PreTrainedModel, dict, list[int]]:
    batch = llava_batch([[2, "image", 5], [4, "image", 9]], seed=3)
    inputs = {name: value[:1] for name, value in batch.inputs.items()}
    return tiny_llava(n_kv=2, seed=1), inputs, [14, 16]


def padded_minigpt4_case() -> tuple[PreTrainedModel, dict, list[int]]:
    _, inputs, positions = padded_llava_case()
    return tiny_minigpt4(n_kv=2), inputs, positions


def llama_case() -> tuple[PreTrainedModel, dict, list[int]]:
    return tiny_llama(n_kv=1), {"input_ids": TOKENS}, [1, 12, 23]


def embedded_llama_case() -> tuple[PreTrainedModel, dict, list[int]]:
    model = tiny_llama()
    return model, {"inputs_embeds": model.get_input_embeddings()(TOKENS).detach()}, [9, 23]


def sliding_mistral_case() -> tuple[PreTrainedModel, dict, list[int]]:
    return tiny_mistral_gqa(sliding_window=5), {"input_ids": TOKENS, "attention_mask": TOKENS**0}, [3, 14, 23]


def mllama_case() -> tuple[PreTrainedModel, dict, list[int]]:
    model, inputs = tiny_mllama()
    return model, {name: value[:1] for name, value in inputs.items()}, [5, 9]


def chameleon_case() -> tuple[PreTrainedModel, dict, list[int]]:
    return tiny_chameleon(), {"input_ids": TOKENS}, [6, 19]
