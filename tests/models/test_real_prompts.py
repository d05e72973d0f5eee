"""Prompts of real models, token by token (LLAVA_HH_REAL): equal to the authors' tokenizers, or as templates say."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from sentencepiece import SentencePieceProcessor
from transformers import AutoProcessor, BlipImageProcessorPil, LlavaProcessor, ProcessorMixin

from llava_hh.models.chat import load_image_processor
from llava_hh.models.llava import Llava, is_llava15
from llava_hh.models.llava_next import PROMPTS
from llava_hh.models.lvlm import DESCRIBE, FAMILIES
from llava_hh.models.minigpt4 import PROMPTS as MINIGPT4_PROMPTS
from llava_hh.models.minigpt4 import MiniGpt4
from llava_hh.models.minigpt4_checkpoint import load_tokenizer as load_llama_tokenizer
from llava_hh.models.minigpt4_model import MiniGpt4Processor
from llava_hh.models.original_config import build_processor, load_tokenizer, model_config, vision_config
from llava_hh.models.original_fields import read_fields
from tests.support.real import real
from tests.support.tiny_original import YI_TOKENIZER

IMAGE = Image.new("RGB", (640, 480), "grey")
# LLaVA's tokenizer_image_token with the slow LlamaTokenizer, and sentencepiece itself
BEFORE = """1 319 13563 1546 263 12758 1404 322 385 23116 21082 20255 29889 450 20255 4076 8444 29892 13173 29892 322
    1248 568 6089 304 278 1404 29915 29879 5155 29889 3148 1001 29901 29871"""
AFTER = "29871 13 12148 8453 445 1967 297 9493 29889 319 1799 9047 13566 29901"
CONFIG_34B = "llava-v1.6-34b-hf.config.rebuilt.json"
CLIP = {"mm_vision_tower": "openai/clip-vit-large-patch14-336"}


def original_processor(folder: Path, fields: dict) -> ProcessorMixin:
    vision, _ = vision_config(folder, fields | CLIP, is_inside=True)
    tokenizer = load_tokenizer(folder)
    return build_processor(model_config(fields, vision, tokenizer), tokenizer)


def split(row: list[int], image_token: int) -> tuple[list[int], int, list[int]]:
    """Ids before the image, its number of ids from the first to the last, and ids after it."""
    places = [place for place, token in enumerate(row) if token == image_token]
    return row[: places[0]], places[-1] - places[0] + 1, row[places[-1] + 1 :]


@pytest.mark.parametrize("name", ["llava-v1.5-7b", "llava-1.5-7b-hf"])
def test_llava_15(name):
    family = Llava()
    family.speaks_vicuna = True
    if name.endswith("hf"):
        folder = real(name, "tokenizer.json", "preprocessor_config.json", "chat_template.jinja")
        processor: LlavaProcessor = AutoProcessor.from_pretrained(folder)
        assert is_llava15(processor)
        processor.num_additional_image_tokens = 1
        assert processor.tokenizer.pad_token_id == 32001
    else:
        folder = real(name, "config.json", "tokenizer.model", "tokenizer_config.json")
        processor = original_processor(folder, read_fields(folder))
        assert processor.tokenizer.pad_token_id == 0
    assert processor.image_token_id == 32000
    (row,), tensors = family.encode(processor, [IMAGE], [DESCRIBE])
    assert split(row, 32000) == (list(map(int, BEFORE.split())), 576, list(map(int, AFTER.split())))
    assert tensors["pixel_values"].shape == (1, 3, 336, 336)


# transformers' own test of LLaVA-1.6-34B expects these pieces of its slow tokenizer
CHATML = r"""<|im_start|> system \n Answer ▁the ▁questions . <|im_end|> <|im_start|> user \n <image> \n What ▁is ▁shown
    ▁in ▁this ▁image ? <|im_end|> <|im_start|> ass istant \n"""


def test_llava_16_34b(tmp_path):
    shutil.copy(real("yi-tokenizer-rebuilt", "tokenizer.model") / "tokenizer.model", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(YI_TOKENIZER))
    config = json.loads((real("names", CONFIG_34B) / CONFIG_34B).read_text())
    fields = config["text_config"] | {"image_aspect_ratio": "anyres", "vocab_size": 64000, "model_type": "llava"}
    fields |= {"image_grid_pinpoints": [[height, width] for width, height in config["image_grid_pinpoints"]]}
    processor = original_processor(tmp_path, fields)
    processor.chat_template = PROMPTS["chatml_direct"]
    family = FAMILIES["llava_next"]()
    (row,), _ = family.encode(processor, [IMAGE], ["What is shown in this image?"])
    assert processor.image_token_id == 64000 and row.count(64000) > 576
    before, _, after = split(row, 64000)
    pieces = processor.tokenizer.convert_ids_to_tokens([*before, 64000, *after])
    assert [piece.replace("<0x0A>", "\n").replace("\n", r"\n") for piece in pieces] == CHATML.split()


@pytest.mark.parametrize(
    ("prompt", "begin"),
    [("harness", "1 835 29950 7889 29901 529 25518 29958"), ("official", "1 518 25580 29962 529 25518 29958")],
)
def test_minigpt4(prompt, begin):
    """Text before and after the image as sentencepiece has it; LLaVA's tokenizer.model is Llama-2's."""
    folder = real("llama-2-7b-chat-hf", "tokenizer.json", "tokenizer_config.json")
    slow = SentencePieceProcessor(model_file=str(real("llava-v1.5-7b", "tokenizer.model") / "tokenizer.model"))
    tokenizer = load_llama_tokenizer(folder)
    processor = MiniGpt4Processor(BlipImageProcessorPil(size={"height": 224, "width": 224}), tokenizer)
    family = MiniGpt4()
    family.opening, family.closing = MINIGPT4_PROMPTS[prompt]
    family.image_ids = [tokenizer.convert_tokens_to_ids("<ImageHere>")] * 64
    (row,), tensors = family.encode(processor, [IMAGE], [DESCRIBE])
    before, n_image, after = split(row, family.image_ids[0])
    assert before == list(map(int, begin.split())) == [1, *slow.encode(f"{family.opening}<Img>")]
    assert n_image == 64 and family.image_ids[0] == 32000
    assert after == slow.encode(f"</Img> {DESCRIBE}{family.closing}")
    assert tensors["pixel_values"].shape == (1, 3, 224, 224)


JSON, QWEN = ("tokenizer.json", "tokenizer_config.json"), ("vocab.json", "merges.txt", "tokenizer_config.json")
COUNTS = [  # of 640 x 480: before the image, of it, after it; and the text right before it
    ("qwen2.5-vl-7b", "qwen2_5_vl", QWEN, (15, 391, 13), "<|vision_start|>"),
    ("qwen3-vl-8b-cosmos-reason2", "qwen3_vl", QWEN, (4, 300, 13), "<|vision_start|>"),
    ("llama-3.2-11b-vision", "mllama", JSON, (5, 1, 12), "\n\n"),
    ("gemma-3-4b-it", "gemma3", JSON, (5, 256, 14), "<start_of_image>"),
    ("llava-onevision-qwen2-7b-ov-hf", "llava_onevision", (*QWEN, "chat_template.json"), (3, 2929, 13), " "),
    ("internvl3-8b-hf", "internvl", (*QWEN, "chat_template.jinja"), (4, 3328, 14), "<img>"),
]


@pytest.mark.parametrize(("name", "kind", "files", "counts", "last"), COUNTS, ids=[case[1] for case in COUNTS])
def test_a_chat_model(name, kind, files, counts, last):
    folder = real(name, "config.json", "preprocessor_config.json", *files)
    family = FAMILIES[kind]()
    processor = load_image_processor(family.processor_class, folder)
    (row,), _ = family.encode(processor, [IMAGE], [DESCRIBE])
    fields = read_fields(folder)
    before, n_image, after = split(row, fields.get("image_token_index") or fields["image_token_id"])
    assert (len(before), n_image, len(after)) == counts
    assert processor.tokenizer.decode(before).endswith(last)
    if processor.tokenizer.bos_token_id is not None and kind in ("mllama", "gemma3"):
        assert row.count(processor.tokenizer.bos_token_id) == 1
    # a conversation for training comes back word for word; labels end with the end token
    ends = fields.get("eos_token_id") or processor.tokenizer.eos_token_id
    turns = [("What is it?", "A dog."), ("Its colour?", "Brown, ï 🍕.")]
    parts = family.answer_parts(processor, turns, True, [*torch.tensor([ends]).flatten().tolist()])
    said = [processor.tokenizer.decode(ids, skip_special_tokens=True) for ids, is_answer in parts if is_answer]
    assert [text.strip() for text in said] == ["A dog.", "Brown, ï 🍕."]
