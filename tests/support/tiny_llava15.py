"""A random LLaVA-1.5 in llava-hf's layout, with a Llama-type tokenizer whose pieces of the prompt are Llama-2's."""

from pathlib import Path

import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

PATCH = 14
# Llama-2's pieces of the vicuna_v1 prompt, ids left aside; ▁ is a blank
BEFORE = """<s> ▁A ▁chat ▁between ▁a ▁curious ▁user ▁and ▁an ▁artificial ▁intelligence ▁assistant . ▁The ▁assistant
    ▁gives ▁helpful , ▁detailed , ▁and ▁pol ite ▁answers ▁to ▁the ▁user ' s ▁questions . ▁US ER : ▁"""
AFTER = "▁ <0x0A> Please ▁describe ▁this ▁image ▁in ▁detail . ▁A SS IST ANT :"
OBJECTS = """person car dog cat bird boat chair couch bed bottle cup fork knife spoon bowl pizza horse sheep cow train
    bench book"""
BEFORE, AFTER, OBJECTS = (text.split() for text in (BEFORE, AFTER, OBJECTS))
# as llava-hf's: each turn's role, its images with a line break each, its text, then the assistant's turn
TEMPLATE = (
    "{% for message in messages %}{{ message.role | upper }}: "
    "{% for part in message.content if part.type == 'image' %}<image>\n{% endfor %}"
    "{% for part in message.content if part.type == 'text' %}{{ part.text }} {% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
MEAN, SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's


def llama_tokenizer(prompt_pieces: list[str]) -> LlamaTokenizer:
    """BPE over bytes and a few characters; every piece is spelled by merges from its left end."""
    pieces = [piece for piece in dict.fromkeys(prompt_pieces) if not piece.startswith("<")]
    pieces += [f"▁{word}" for word in OBJECTS]
    pieces.sort(key=lambda piece: not piece.startswith("▁"))  # inside a word, the word's own merges come first
    chains = dict.fromkeys((piece[:end], piece[end]) for piece in pieces for end in range(1, len(piece)))
    characters = sorted({character for piece in pieces for character in piece})
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *characters]
    tokens += [first + second for first, second in chains]
    vocabulary = {token: place for place, token in enumerate(dict.fromkeys(tokens))}
    return LlamaTokenizer(vocab=vocabulary, merges=list(chains), add_bos_token=True)


def llava_tokenizer() -> LlamaTokenizer:
    """The tokenizer of the vicuna_v1 prompt with llava-hf's tokens."""
    tokenizer = llama_tokenizer(BEFORE + AFTER)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.add_special_tokens({"pad_token": "<pad>"})  # after <image>, as in llava-hf's
    return tokenizer


def save_tiny_llava15(folder: Path, side: int = 28) -> None:
    """About 100k parameters; greedy captions are strings of objects. An image is (side / 14)^2 tokens."""
    tokenizer = llava_tokenizer()
    processor = LlavaProcessor(
        CLIPImageProcessorPil(
            size={"shortest_edge": side},
            crop_size={"height": side, "width": side},
            resample=3,
            image_mean=MEAN,
            image_std=SPREAD,
        ),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    torch.manual_seed(5)
    n_words = -(-len(tokenizer) // 64) * 64  # llava-hf rounds the matrices up
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=side,
            patch_size=PATCH,
            projection_dim=32,
        ),
        text_config=LlamaConfig(
            vocab_size=n_words,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=1024,
            initializer_range=0.12,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_id=processor.image_token_id,
        image_seq_length=(side // PATCH) ** 2,
        vision_feature_layer=-2,
    )
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for layer in model.model.language_model.layers:  # wider, so that captions vary
            for weight in layer.parameters():
                if weight.ndim == 2:
                    weight *= 4
        objects = tokenizer.convert_tokens_to_ids([f"▁{word}" for word in OBJECTS])
        others = torch.ones(n_words, dtype=torch.bool)
        others[objects] = False
        others[-8:] = False  # rows that round up would be spoken, were they not suppressed
        model.lm_head.weight[others] = 0
        model.lm_head.weight[-8:] *= 3
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
