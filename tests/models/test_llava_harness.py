"""LLaVA-1.5 as the paper's comparison asked it: prompt, pixels and kept sentences, against hand computations."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from transformers import AutoTokenizer

from llava_hh.decoding.method import generate_greedily
from llava_hh.models.llava_harness import LlavaHarness, harness_answer
from llava_hh.models.lvlm import DESCRIBE, Lvlm, load_lvlm
from llava_hh.runs.identity import checkpoint_files, identify_checkpoint
from tests.support.photos import PHOTOS, photo
from tests.support.real import real
from tests.support.tiny_llava15 import AFTER, BEFORE, MEAN, SPREAD, save_tiny_llava15


def save_harness(folder: Path, *named: str) -> Path:
    folder.mkdir(parents=True)
    fields = {"model_type": "llava_harness", "parts": {"model": [*named]}}
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    above = tmp_path_factory.mktemp("with a blank")
    save_tiny_llava15(above / "llava-1.5-tiny-hf")
    return save_harness(above / "harness", "../not-there", "../llava-1.5-tiny-hf")


@pytest.fixture(scope="module")
def lvlm(folder) -> Lvlm:
    return load_lvlm(folder)


def test_nothing_stands_before_user(lvlm):
    batch = lvlm.encode([photo(640, 480)], [DESCRIBE])
    pieces = lvlm.tokenizer.convert_ids_to_tokens(batch.inputs["input_ids"][0].tolist())
    text = "".join(pieces).replace("▁", " ")
    plain = "".join([*BEFORE, *["<image>"] * 4, *AFTER]).replace("▁", " ")
    assert text == plain.replace("questions. USER: ", "questions.USER: ") != plain


def test_the_image_begins_one_position_earlier_with_the_real_tokenizer():
    """33 pieces and BOS, for USER is one piece where no blank stands before it."""
    family = LlavaHarness()
    folder = real("llava-1.5-7b-hf", "tokenizer.json")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    before = family.prompt(DESCRIBE, "<image>").split("<image>")[0]
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(before).input_ids)
    assert len(pieces) == 34 and pieces[0] == "<s>" and pieces[-4:] == [".", "USER", ":", "▁"]


@pytest.mark.parametrize("image", PHOTOS, ids=["wide", "tall", "square"])
def test_pixels_are_those_of_the_centre(lvlm, image):
    """The shorter side becomes 28 pixels, then the middle 28 x 28 are cut out."""
    width, height = image.size
    scale = 28 / min(image.size)
    small = image.resize((int(width * scale), int(height * scale)), Image.Resampling.BICUBIC)
    left, top = (small.width - 28) // 2, (small.height - 28) // 2
    centre = np.asarray(small)[top : top + 28, left : left + 28]
    expected = torch.tensor((centre / 255 - MEAN) / SPREAD).permute(2, 0, 1).float()
    assert_close(lvlm.encode([image], [DESCRIBE]).inputs["pixel_values"][0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("A dog. Its trunk is open. A cat.", "A dog. A cat."),
        ("A skunk", ""),
        ("A dog at 5 p.m. with chunks. A cat", "A dog at 5 p.m. A cat"),
        ("A dog.### USER: a cat", "A dog."),
        ("Uncle Unkas. A dog.", "Uncle Unkas. A dog."),
    ],
)
def test_sentences_with_unk_are_dropped(lvlm, text, kept):
    assert harness_answer(text) == kept
    assert lvlm.family.read_answer(text) == kept


def test_weights_are_those_of_the_named_folder(folder, lvlm):
    plain = load_lvlm(folder.parent / "llava-1.5-tiny-hf")
    assert all(torch.equal(one, lvlm.model.state_dict()[name]) for name, one in plain.model.state_dict().items())
    answers = [generate_greedily(each, each.encode(PHOTOS, [DESCRIBE] * 3), 4) for each in (plain, lvlm)]
    assert answers[0] != answers[1]


def test_what_the_model_is_follows_the_named_files(folder):
    names = dict(checkpoint_files(folder))
    assert {"config.json", "model/config.json", "model/tokenizer.json"} <= set(names)
    assert any(name.startswith("model/model") and name.endswith(".safetensors") for name in names)
    before = identify_checkpoint(folder)["sha256"]
    config = folder.parent / "llava-1.5-tiny-hf" / "config.json"
    content = config.read_text()
    config.write_text(content + " ")
    assert identify_checkpoint(folder)["sha256"] != before
    config.write_text(content)


def test_a_folder_that_names_nothing_there_is_refused_in_a_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a: not there; the checkpoint's model is expected there"):
        load_lvlm(save_harness(tmp_path / "harness", "../a"))
    (tmp_path / "harness" / "config.json").write_text('{"model_type": "llava_harness"}')
    with pytest.raises(ValueError, match="no checkpoint is named there"):
        load_lvlm(tmp_path / "harness")
