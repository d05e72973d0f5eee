"""The image token in text without an image: characters, as in a tokenizer that never heard of it."""

import json

import pytest
import torch

from llava_hh.data.instruct import InstructionData, parse_conversation
from llava_hh.files.images import load_image
from llava_hh.models.literal import without_image_token
from llava_hh.models.llava import VICUNA_SYSTEM
from llava_hh.models.lvlm import Lvlm, load_lvlm
from tests.support.tiny_llava15 import AFTER, BEFORE, llama_tokenizer, save_tiny_llava15
from tests.support.tiny_newer import save_tiny_family

TURNS = [("Please <image> describe", "a <image> dog"), ("<image>", "cat")]
FAMILIES = ("llava15", "llava_next", "llava_onevision", "chameleon", "qwen3_vl", "gemma3", "internvl")
MINI = pytest.param("mini", marks=pytest.mark.mini)


@pytest.fixture(scope="module")
def llava15(tmp_path_factory) -> Lvlm:
    folder = tmp_path_factory.mktemp("llava15") / "model"
    save_tiny_llava15(folder)
    return load_lvlm(folder)


@pytest.fixture(params=[*FAMILIES, MINI])
def lvlm(request, tmp_path_factory) -> Lvlm:
    if request.param == "llava15":
        return request.getfixturevalue("llava15")
    if request.param == "mini":
        return load_lvlm(request.getfixturevalue("mini_path"))
    folder = tmp_path_factory.mktemp("family") / request.param
    save_tiny_family(request.param, folder)
    return load_lvlm(folder)


def test_a_row_of_text_may_hold_the_mark():
    said = [text for turn in TURNS for text in turn]
    row = {"conversations": [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(said)]}
    assert parse_conversation(row).turns == tuple(TURNS)
    with pytest.raises(ValueError, match=r"must stand once, in the first question; it stands in parts \[0, 1, 2\]"):
        parse_conversation({**row, "image": "a.jpg"})


def test_ids_are_those_of_a_tokenizer_without_the_token(llava15):
    """LLaVA's text of a conversation without an image, by a tokenizer to which the token was never added."""
    plain = llama_tokenizer(BEFORE + AFTER)
    expected = plain(f"{VICUNA_SYSTEM} USER: {TURNS[0][0]} ASSISTANT:").input_ids
    first = len(expected)
    expected += plain(TURNS[0][1], add_special_tokens=False).input_ids + [plain.eos_token_id]
    expected += plain(f"USER: {TURNS[1][0]} ASSISTANT:", add_special_tokens=False).input_ids
    expected += plain(TURNS[1][1], add_special_tokens=False).input_ids + [plain.eos_token_id]
    batch, labels = llava15.encode_conversations([None], [TURNS], max_length=500)
    assert batch.inputs["input_ids"][0].tolist() == expected
    assert batch.response_start == [first] and labels[0, first] == expected[first]


def test_no_family_takes_it_for_an_image(lvlm, tiny_coco):
    """Beside a row with an image, which is as it is alone; other special tokens keep their ids."""
    token = getattr(lvlm.processor, "image_token", "<image>")
    turns = [tuple(text.replace("<image>", token) for text in turn) for turn in TURNS]
    image = load_image(next((tiny_coco / "val2014").glob("*.jpg")))
    both, labels = lvlm.encode_conversations([None, image], [turns, [("describe", "a dog")]], max_length=500)
    assert not both.image_mask[0].any() and (labels[0] != -100).any()
    alone, _ = lvlm.encode_conversations([image], [[("describe", "a dog")]], max_length=500)
    width = int(alone.inputs["attention_mask"].sum())
    assert both.inputs["input_ids"][1, :width].tolist() == alone.inputs["input_ids"][0].tolist()
    assert torch.equal(both.inputs["pixel_values"], alone.inputs["pixel_values"])
    plain, own = without_image_token(lvlm.processor).tokenizer, lvlm.tokenizer
    for special in own.all_special_tokens:
        if special != token:
            assert (
                plain(special, add_special_tokens=False).input_ids == own(special, add_special_tokens=False).input_ids
            )
    assert plain(token, add_special_tokens=False).input_ids != own(token, add_special_tokens=False).input_ids


def test_data_of_both_kinds(tmp_path):
    turns = [{"from": "human", "value": "What is <image>?"}, {"from": "gpt", "value": "A tag"}]
    shown = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog"}]
    rows = [{"id": "1", "conversations": turns}, {"id": "2", "image": "a.jpg", "conversations": shown}]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    data = InstructionData(tmp_path / "d.json")
    assert [data[0].turns, data[1].turns] == [(("What is <image>?", "A tag"),), (("What?", "A dog"),)]
    assert list(data.has_image) == [0, 1]
