"""LLaVA-1.6: prompts by hand, spans by the anyres rule, originals, every decoder; the rest in test_families."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from llava_hh.attribution.ablation import ablate_every_head
from llava_hh.baselines import dola, greedy, opera, pai, vcd
from llava_hh.decoding.method import generate_greedily
from llava_hh.models.lvlm import DESCRIBE, Lvlm, load_lvlm
from tests.support.decoding import answers_of
from tests.support.slow_ablation import hook_output
from tests.support.tiny_original import tiny_llava16, write_llava16, yi_tokens

N_TOKENS = 5


def photo(seed: int, width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


IMAGES = [photo(0, 60, 30), photo(1, 20, 50), None, photo(2, 40, 40), photo(3, 64, 48)]
QUESTIONS = [DESCRIBE, "Please describe this", DESCRIBE, "describe", DESCRIBE]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A LLaVA-1.6 in the layout of llava-v1.6-34b, which has no chat template of its own."""
    tokens = yi_tokens()
    return write_llava16(tmp_path_factory.mktemp("16") / "llava-v1.6-34b", tiny_llava16(len(tokens)), tokens)


@pytest.fixture(scope="module")
def lvlm(folder) -> Lvlm:
    return load_lvlm(folder)


def text_of(lvlm: Lvlm, ids: list[int]) -> str:
    """The text of a row, an image's tokens as one."""
    kept = [token for place, token in enumerate(ids) if place == 0 or {token, ids[place - 1]} != {image_id(lvlm)}]
    return lvlm.tokenizer.decode(kept)


def image_id(lvlm: Lvlm) -> int:
    return lvlm.model.config.image_token_id


def asked(lvlm: Lvlm, image: Image.Image | None) -> list[int]:
    return lvlm.encode([image], [DESCRIBE]).inputs["input_ids"][0].tolist()


def test_an_original_is_asked_in_chatml(lvlm):
    assert text_of(lvlm, asked(lvlm, IMAGES[0])) == (
        "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n<image>\n"
        f"{DESCRIBE}<|im_end|><|im_start|>assistant\n"
    )
    assert text_of(lvlm, asked(lvlm, None)) == (
        "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n"
        f"{DESCRIBE}<|im_end|><|im_start|>assistant\n"
    )


def test_config_json_may_choose_the_released_prompt(folder, tmp_path):
    copied = tmp_path / "llava-v1.6-34b"
    shutil.copytree(folder.parent, tmp_path, dirs_exist_ok=True)
    fields = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(fields | {"prompt": "vicuna_v1"}))
    lvlm = load_lvlm(copied)
    assert text_of(lvlm, asked(lvlm, IMAGES[0])).startswith("A chat between a curious user and an artificial intell")
    assert text_of(lvlm, asked(lvlm, IMAGES[0])).endswith(f"questions. USER: <image>\n{DESCRIBE} ASSISTANT:")
    turns = [("describe", "a dog"), ("and", "a cat")]
    parts = lvlm.family.answer_parts(lvlm.processor, turns, True, lvlm.end_token_ids)
    texts = [(lvlm.tokenizer.decode(ids), is_answer) for ids, is_answer in parts]
    assert texts == [("a dog<|im_end|>", True), (" USER: and ASSISTANT:", False), ("a cat<|im_end|>", True)]
    (copied / "config.json").write_text(json.dumps(fields | {"prompt": "vicuna"}))
    with pytest.raises(ValueError, match="config.json: prompt 'vicuna'; expected one of: chatml_direct, vicuna_v1"):
        load_lvlm(copied)


def test_conversations_in_chatml(lvlm):
    turns = [("describe", "a dog"), ("and", "a cat")]
    parts = lvlm.family.answer_parts(lvlm.processor, turns, True, lvlm.end_token_ids)
    texts = [(lvlm.tokenizer.decode(ids), is_answer) for ids, is_answer in parts]
    assert texts[0] == ("a dog<|im_end|>", True) and texts[2][0].startswith("a cat<|im_end|>")
    assert texts[1] == ("<|im_start|>user\nand<|im_end|><|im_start|>assistant\n", False)


@pytest.mark.parametrize(
    ("size", "grid"), [((60, 30), (1, 2)), ((20, 50), (2, 1)), ((40, 40), (2, 2)), ((64, 48), (2, 2))]
)
def test_an_image_is_itself_and_its_tiles_without_padding_and_newlines(lvlm, size, grid):
    """4 tokens of the whole; then the grid of 2 x 2 patches a tile, cut to the image's shape, a newline a row."""
    width, height = size
    rows, columns = 2 * grid[0], 2 * grid[1]
    if width / height > columns / rows:
        scaled = int(round(height * (columns / width), 7))
        rows -= 2 * ((rows - scaled) // 2)
    else:
        scaled = int(round(width * (rows / height), 7))
        columns -= 2 * ((columns - scaled) // 2)
    batch = lvlm.encode([photo(5, width, height)], [DESCRIBE])
    assert int(batch.image_mask.sum()) == 4 + rows * (columns + 1)


def test_mixed_sizes_in_a_batch_equal_single_runs(lvlm):
    batch = lvlm.encode(IMAGES, QUESTIONS)
    assert len(set(batch.image_mask.sum(1).tolist())) > 2
    together = generate_greedily(lvlm, batch, 8)
    for image, question, answer in zip(IMAGES, QUESTIONS, together, strict=True):
        assert generate_greedily(lvlm, lvlm.encode([image], [question]), 8)[0] == answer
    spoken = {token for answer in together for token in answer.token_ids}
    assert len({tuple(answer.token_ids) for answer in together}) > 2 and image_id(lvlm) not in spoken


@torch.no_grad()
def test_attribution_of_an_original_equals_a_pass_per_head(lvlm):
    batch = lvlm.encode([IMAGES[0]], [DESCRIBE], [[400, 401, 402]])
    start = batch.response_start[0]
    found = ablate_every_head(lvlm.model, batch.inputs, [start - 1], [400])
    cut = {**batch.inputs, **{name: batch.inputs[name][:, :start] for name in ("input_ids", "attention_mask")}}
    for layer in range(lvlm.n_layers):
        for head in range(lvlm.n_heads):
            handle = hook_output(lvlm.model, "heads", layer, head, lambda z: z * 0)
            logits = lvlm.model(**cut).logits[0, -1]
            handle.remove()
            assert_close(found.heads[0, layer, head], logits.log_softmax(-1)[400], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("decoder", "settings"),
    [
        (greedy, None),
        (vcd, vcd.VcdSettings(alpha=0, do_sample=False)),
        (pai, pai.PaiSettings(alpha=0, gamma=1)),
        (opera, opera.OperaSettings(num_beams=1, num_candidates=1)),
    ],
    ids=["greedy", "vcd", "pai", "opera"],
)
def test_decoders_without_their_contrast_are_greedy(lvlm, decoder, settings):
    batch = lvlm.encode(IMAGES, QUESTIONS)
    answers = answers_of(lvlm, batch, decoder.decode, settings, N_TOKENS)
    assert answers == generate_greedily(lvlm, batch, N_TOKENS)


@pytest.mark.parametrize(
    ("decoder", "settings"),
    [
        (vcd, vcd.VcdSettings(do_sample=False)),
        (pai, pai.PaiSettings()),
        (dola, dola.DolaSettings()),
        (opera, opera.OperaSettings()),
    ],
    ids=["vcd", "pai", "dola", "opera"],
)
def test_decoders_do_not_depend_on_the_batch(lvlm, decoder, settings):
    ids = ["a", "b", "c", "d", "e"]
    together = answers_of(lvlm, lvlm.encode(IMAGES, QUESTIONS, sample_ids=ids), decoder.decode, settings, 4)
    for image, question, sample, expected in zip(IMAGES, QUESTIONS, ids, together, strict=True):
        alone = lvlm.encode([image], [question], sample_ids=[sample])
        assert answers_of(lvlm, alone, decoder.decode, settings, 4) == [expected]
