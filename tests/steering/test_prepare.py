"""VTI's vectors, made by the verb: against loops, one pass a row or copy, and numpy's SVD."""

import json
import math
import random
import shutil
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.testing import assert_close

from llava_hh.decoding.making import Material
from llava_hh.decoding.reading import method_of
from llava_hh.files.files import is_ours
from llava_hh.files.images import load_image
from llava_hh.models.lvlm import load_lvlm
from llava_hh.runs.identity import identify
from llava_hh.scripts.prepare_vti import main
from llava_hh.steering.bank import bank_path, read_bank
from llava_hh.steering.directions import direction_of
from llava_hh.steering.tower import damaged, encoder_states, tower_of
from tests.support.questions import QUESTIONS, SHOWN
from tests.support.tiny_checkpoint import save_tiny_checkpoint
from tests.support.tiny_minigpt4 import save_tiny_parts, tiny_minigpt4
from tests.support.tiny_newer import FAMILIES, save_tiny_family
from tests.support.tiny_vti import encoder_layers, steered_by_loops
from tests.support.verbs import error_of

CAPTIONS = [("a cat and a dog", "a cat"), ("the car", "the bench and a clock"), ("dog", "dogs and cats")]
CAPTIONS += [("a cup .", "a bowl ."), ("a pizza and the oven", "a pizza and the car and the oven")]
N_COPIES, ALPHA = 6, 9.0


@pytest.fixture(scope="module", params=["gqa", "mha", "qwen2_5_vl"])
def prepared(request, tiny_coco, tmp_path_factory):
    """A model, its five pairs as they are drawn, and what the verb made of them."""
    folder = tmp_path_factory.mktemp("vti")
    if request.param == "qwen2_5_vl":
        save_tiny_family(request.param, folder / "model")
    else:
        save_tiny_checkpoint(folder / "model", n_kv={"gqa": 2, "mha": 4}[request.param])
    names = [path.name for path in sorted((tiny_coco / "train2014").iterdir())]
    rows = [
        {"image": name, "question": f"describe the {word}", "value": true, "h_value": false}
        for name, word, (true, false) in zip(names, ("dog", "cat", "car", "cup", "bed"), CAPTIONS, strict=False)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--model", folder / "model", "--pairs", folder / "pairs.jsonl"]
    flags += ["--image-folder", tiny_coco / "train2014", "--n-pairs", 5, "--copies", N_COPIES]
    flags += ["--alpha-image", ALPHA, "--batch-size", 4, "--out", folder / "vectors.safetensors"]
    main([*map(str, flags)])
    lvlm = load_lvlm(folder / "model")
    images = tiny_coco / "train2014"
    drawn = [(load_image(images / row["image"]), *[*row.values()][1:]) for row in random.Random(42).sample(rows, 5)]
    return lvlm, drawn, folder, flags


def by_svd(differences):
    """The first principal component by loops over rows for the mean, signed as `svd_flip` does, and the mean."""
    rows = [np.asarray(each, dtype=np.float64).ravel() for each in differences]
    mean = sum(rows) / len(rows)
    u, _, v = np.linalg.svd(np.stack([row - mean for row in rows]), full_matrices=False)
    sign = 1 if u[np.argmax([abs(each) for each in u[:, 0]]), 0] > 0 else -1
    return (mean + sign * v[0]).reshape(np.shape(differences[0]))


@torch.no_grad()
def slow_image_vectors(lvlm, drawn):
    """One copy a pass, its patches filled by loops; states as transformers records them."""
    tower, patch = lvlm.model.model.vision_tower, lvlm.model.config.vision_config.patch_size
    differences = []
    for number, (image, question, *_) in enumerate(drawn):
        pixels = lvlm.encode([image], [question]).inputs["pixel_values"]
        rows, columns = pixels.shape[-2] // patch, pixels.shape[-1] // patch
        orders = np.random.default_rng([42, number]).random((N_COPIES, rows * columns)).argsort(1)
        states = []
        for order in orders:
            copy = pixels.clone()
            for place in range(rows * columns):
                if order[place] < math.floor(0.99 * rows * columns):
                    y, x = place // columns * patch, place % columns * patch
                    for channel in range(3):
                        copy[0, channel, y : y + patch, x : x + patch] = pixels[0, channel].mean()
            assert (copy != pixels).any()
            states.append(torch.stack(tower(copy, output_hidden_states=True).hidden_states)[:, 0])
        clean = torch.stack(tower(pixels, output_hidden_states=True).hidden_states)[:, 0]
        differences.append((sum(states) / N_COPIES - clean).numpy())
    n_tokens = differences[0].shape[1]
    by_token = [by_svd([each[:, token] for each in differences]) for token in range(n_tokens)]
    return np.stack(by_token, 1)[1:]


@torch.no_grad()
def slow_text_vectors(lvlm, drawn, image):
    """One caption a pass, hidden states as transformers records them, the last one normed."""
    differences = []
    with ExitStack() as stack:
        if image is not None:
            stack.enter_context(steered_by_loops(encoder_layers(lvlm.model), image, ALPHA))
        for picture, question, *captions in drawn:
            states = []
            for caption in captions:
                tokens = lvlm.tokenizer(caption, add_special_tokens=False).input_ids
                inputs = lvlm.encode([picture], [question], [tokens]).inputs
                hidden = lvlm.model(**inputs, use_cache=False, output_hidden_states=True).hidden_states
                states.append(torch.stack(hidden)[:, 0, -1])
            differences.append((states[0] - states[1]).numpy())
    return by_svd(differences)[1:]


def test_vectors_follow_from_single_passes(prepared):
    lvlm, drawn, folder, _ = prepared
    bank = read_bank(folder / "vectors.safetensors", lvlm.model)
    if tower_of(lvlm.model) is None:
        assert bank.image is None and lvlm.model.config.model_type == "qwen2_5_vl"
    else:
        assert_allclose(bank.image, slow_image_vectors(lvlm, drawn), atol=2e-4)
    assert_allclose(bank.text, slow_text_vectors(lvlm, drawn, bank.image), atol=2e-4)
    mlps = [module for name, module in lvlm.model.named_modules() if name.endswith(".mlp")]
    assert mlps and not any(module._forward_hooks for module in mlps)


def test_the_file_says_what_it_was_made_of(prepared):
    lvlm, _, folder, _ = prepared
    path = folder / "vectors.safetensors"
    assert bank_path(str(path), lvlm) == path
    made = read_bank(path, lvlm.model).made
    said, own = made["settings"], ("n_pairs", "seed", "masked", "copies", "alpha_image")
    assert [said[name] for name in own] == [5, 42, 0.99, N_COPIES, ALPHA]
    assert said["pairs"] == identify(folder / "pairs.jsonl") and len(said["images"]) == 5
    assert made["argv"] and made["date"] and made["versions"]["torch"] == torch.__version__
    assert is_ours(path)


def test_the_same_command_makes_the_same_vectors(prepared):
    """Whatever the batches, to rounding. The file stays byte by byte, for answers are held to it."""
    lvlm, _, folder, flags = prepared
    first = read_bank(folder / "vectors.safetensors", lvlm.model)
    before = (folder / "vectors.safetensors").read_bytes()
    main([*map(str, flags)])
    assert (folder / "vectors.safetensors").read_bytes() == before
    other = [*flags[:-3], 1, "--out", folder / "other.safetensors"]
    main([*map(str, other)])
    assert_allclose(read_bank(folder / "other.safetensors", lvlm.model).text, first.text, atol=1e-4)


def test_captions_that_are_alike_do_not_steer(prepared, tiny_coco):
    lvlm, _, folder, flags = prepared
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    (folder / "alike.jsonl").write_text("".join(json.dumps(row | {"h_value": row["value"]}) + "\n" for row in rows))
    words = [folder / "alike.jsonl" if word == folder / "pairs.jsonl" else word for word in flags]
    main([*map(str, [*words[:-1], folder / "alike.safetensors"])])
    assert not read_bank(folder / "alike.safetensors", lvlm.model).text.any()


def test_directions_of_a_few_differences():
    rng = np.random.default_rng(3)
    differences = rng.normal(0, 2, (5, 3, 7)).astype(np.float32)
    assert_allclose(direction_of(differences), by_svd(differences), atol=1e-6)
    one = differences[:1]
    for alike in (one, np.repeat(one, 3, 0)):  # no component: it would be rounding
        assert_allclose(direction_of(alike), one[0], rtol=1e-6)
    assert not direction_of(np.zeros((4, 6), np.float32)).any()


def test_damaged_copies(prepared):
    """Of 16 patches 15 have the channel's mean, others in each copy; what no patch covers stays."""
    pixels = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    copies = damaged(pixels, 2, 0.99, 5, np.random.default_rng(0))
    assert copies.shape == (10, 3, 9, 8)
    shown = set()
    for number, copy in enumerate(copies):
        own = pixels[number % 2]
        assert torch.equal(copy[:, 8:], own[:, 8:])
        whole = [
            (y, x)
            for y in range(0, 8, 2)
            for x in range(0, 8, 2)
            if torch.equal(copy[:, y : y + 2, x : x + 2], own[:, y : y + 2, x : x + 2])
        ]
        assert len(whole) == 1
        shown.add((number, *whole))
        hidden = (copy[:, :8] != own[:, :8]).any(0)
        assert hidden.sum() == 60
        assert_close(copy[:, :8][:, hidden], own.mean((1, 2))[:, None].expand(-1, 60))
    assert len({place for _, place in shown}) > 3
    with pytest.raises(ValueError, match="hides none of"):
        damaged(torch.zeros(1, 3, 8, 8), 4, 0.2, 2, np.random.default_rng(0))


def test_towers(prepared):
    """Those of families that are like CLIP's; a MiniGPT-4's is one."""
    found = {name: tower_of(build()[0]) for name, build in FAMILIES.items()}
    assert {name for name, tower in found.items() if tower} == {"llava_onevision", "llava_next", "gemma3"}
    assert tower_of(tiny_minigpt4()).shape == (3, 17, 16)
    for tower in filter(None, found.values()):
        side = tower.module.config.image_size
        states = encoder_states(tower, torch.randn(2, 3, side, side))
        assert states.shape == (2, tower.shape[0] + 1, *tower.shape[1:])


def test_what_cannot_be_is_one_line(prepared, tmp_path, capsys):
    lvlm, _, folder, flags = prepared
    start = flags[:-1]
    (tmp_path / "notes.safetensors").write_text("mine")
    assert "no run of ours wrote it; move it or" in error_of(main, capsys, *start, tmp_path / "notes.safetensors")
    assert (tmp_path / "notes.safetensors").read_text() == "mine"
    assert "ends in .safetensors" in error_of(main, capsys, *start, tmp_path / "vectors.bin")
    said = error_of(main, capsys, *start, tmp_path / "new.safetensors", "--n-pairs", 6)
    assert "pairs.jsonl: 5 rows, 6 were asked for" in said
    assert "--pairs has them" in error_of(main, capsys, *start, tmp_path / "new.safetensors", "--prompt", "What?")
    copied = shutil.copytree(folder / "model", tmp_path / "model")
    (copied / "generation_config.json").write_text((copied / "generation_config.json").read_text() + "\n")
    with pytest.raises(ValueError, match="found on another model than .*model.*make this model's by llava-hh prepare"):
        bank_path(str(folder / "vectors.safetensors"), load_lvlm(copied))
    assert not list(tmp_path.glob("new*"))


@pytest.mark.parametrize("name", [*FAMILIES, "minigpt4"])
def test_vectors_of_every_family_steer_it(name, tiny_coco, tmp_path):
    """Made of annotations; by text alone where the vision tower is not like CLIP's. A batch equals its rows."""
    if name == "minigpt4":
        save_tiny_parts(tmp_path)
    else:
        save_tiny_family(name, tmp_path / name)
    images = ["--image-folder", tiny_coco / "train2014", "--annotations", tiny_coco / "annotations"]
    flags = [*images, "--n-pairs", 4, "--copies", 2, "--batch-size", 4, "--prompt", "describe the dog"]
    main([*map(str, ["--model", tmp_path / name, *flags, "--out", tmp_path / "vectors.safetensors"])])
    lvlm = load_lvlm(tmp_path / name)
    alpha_image = 9 if tower_of(lvlm.model) else 0
    assert bool(alpha_image) == (name in ("llava_onevision", "llava_next", "gemma3", "minigpt4"))
    method = f'vti:alpha_image={alpha_image},alpha_text=9,vectors="{tmp_path}/vectors.safetensors"'
    steered, greedy = (method_of(text, Material(lvlm)).method for text in (method, "greedy"))
    batch = lvlm.encode(SHOWN, QUESTIONS)
    together = steered.answer(lvlm, batch, 5).answers
    assert together != greedy.answer(lvlm, batch, 5).answers
    alone = [lvlm.encode([image], [text]) for image, text in zip(SHOWN, QUESTIONS, strict=True)]
    assert together == [steered.answer(lvlm, own, 5).answers[0] for own in alone]
