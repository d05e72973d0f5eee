"""mini: its world is countable by CHAIR, its sets are disjoint and reproducible, its checkpoint is an ordinary one."""

import json
import random
import subprocess
import sys
from hashlib import sha256

import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from transformers import AutoProcessor, LlavaForConditionalGeneration

from llava_hh.attention.hooks import intervene
from llava_hh.attention.interventions import DeactivateText
from llava_hh.attribution.ablation import ablate_every_head
from llava_hh.baselines import dola, halc, pai, vcd
from llava_hh.decoding.method import generate_greedily
from llava_hh.metrics.chair.chair import find_objects
from llava_hh.mini.dataset import SPLITS, Split, write_missing_splits, write_split
from llava_hh.mini.vision import BACKGROUND, labelled_batch
from llava_hh.mini.world import render, sample_scene
from llava_hh.models.lvlm import DESCRIBE, load_lvlm
from tests.support.decoding import answers_of
from tests.support.repository import ROOT


def test_sets_are_disjoint():
    ranges = [range(split.first_id, split.first_id + split.size) for split in SPLITS]
    assert sum(map(len, ranges)) == len({image_id for ids in ranges for image_id in ids})
    assert [(split.name, split.together, split.hard) for split in SPLITS] == [
        ("tune", 0.9, 0.6),
        ("train2014", 0.45, 0.0),
        ("val2014", 0.45, 0.0),
    ]


def test_sets_are_coco_files_and_the_same_every_time(tmp_path, capsys):
    split = Split("val2014", 4, 70, together=0.45)
    hashes = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        write_split(split, folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        hashes.append([sha256(path.read_bytes()).hexdigest() for path in files])
    assert hashes[0] == hashes[1]
    instances = COCO(tmp_path / "one" / "annotations" / "instances_val2014.json")
    assert instances.getImgIds() == [70, 71, 72, 73]
    image = instances.loadImgs(70)[0]
    assert Image.open(tmp_path / "one" / "val2014" / image["file_name"]).size == (image["width"], image["height"])
    assert len(COCO(tmp_path / "one" / "annotations" / "captions_val2014.json").getAnnIds(imgIds=[70])) == 5


def test_missing_sets_are_written_and_others_left(tmp_path, monkeypatch):
    small = [Split("tune", 3, 10, together=0.9, hard=0.6, is_told=True), Split("val2014", 2, 20, together=0.45)]
    monkeypatch.setattr("llava_hh.mini.dataset.SPLITS", small)
    write_missing_splits(tmp_path)
    first = tmp_path / "annotations" / "captions_tune.json"
    written = first.stat().st_mtime_ns
    (tmp_path / "annotations" / "captions_val2014.json").unlink()
    write_missing_splits(tmp_path)
    assert first.stat().st_mtime_ns == written
    assert len(json.loads((tmp_path / "annotations" / "captions_val2014.json").read_text())["images"]) == 2


@pytest.mark.parametrize("info", [{"partners_together": 0.9, "unseen": 0.3}, {"world": 1}])
def test_sets_of_an_earlier_world_are_made_anew(info, tmp_path, monkeypatch):
    """Version 1 said how many partners were unseen; its sets had no conversations but descriptions."""
    monkeypatch.setattr("llava_hh.mini.dataset.SPLITS", [Split("tune", 3, 10, together=0.9, hard=0.6, is_told=True)])
    for kind in ("captions", "instances"):
        path = tmp_path / "annotations" / f"{kind}_tune.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"info": {"description": "mini, drawn scenes, tune", **info}, "images": [1, 2, 3]}))
    write_missing_splits(tmp_path)
    assert json.loads(path.read_text())["info"]["hard_to_see"] == 0.6
    assert len(json.loads((tmp_path / "instruct_tune.json").read_text())) == 3


def test_patch_labels_are_where_the_objects_are():
    pixels, labels = labelled_batch(random.Random(4), 3)
    assert pixels.shape == (3, 3, 180, 180)
    for row in labels:
        assert 2 <= (row != BACKGROUND).sum() <= 16


@pytest.fixture(scope="module")
def mini(mini_path):
    return load_lvlm(mini_path)


@pytest.fixture(scope="module")
def picture():
    scene = sample_scene(random.Random(6), together=0.45)
    return scene, render(scene, random.Random(7))


def test_mini_sees_what_is_drawn(mini, picture):
    scene, image = picture
    answer = generate_greedily(mini, mini.encode([image], [DESCRIBE]), 128)[0]
    named = {mention.node for mention in find_objects(mini.tokenizer.decode(answer.token_ids))}
    assert answer.finish_reason == "stop"
    assert len(named & set(scene.categories)) >= len(scene.categories) / 2


def test_plain_transformers_loads_mini(mini, mini_path, picture):
    processor = AutoProcessor.from_pretrained(mini_path)
    plain = LlavaForConditionalGeneration.from_pretrained(mini_path).eval()
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": DESCRIBE}]}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True)
    inputs = processor(images=[picture[1]], text=[text], return_tensors="pt")
    batch = mini.encode([picture[1]], [DESCRIBE])
    assert torch.equal(inputs["input_ids"], batch.inputs["input_ids"])
    with torch.no_grad():
        assert torch.equal(plain(**inputs).logits, mini.model(**batch.inputs).logits)


def test_no_op_changes_nothing_on_mini(mini, picture):
    batch = mini.encode([picture[1], picture[1]], [DESCRIBE, "What is this?"])
    every = [(layer, head) for layer in range(mini.n_layers) for head in range(mini.n_heads)]
    with torch.no_grad():
        plain = mini.model(**batch.inputs).logits
        with intervene(mini.model, batch.image_mask, [DeactivateText(every, 1.0)]) as trace:
            assert torch.equal(mini.model(**batch.inputs).logits, plain)
        assert sum(count.fired for count in trace.fired.values()) == 0


def test_ablation_equals_single_cached_forwards_on_mini(mini, picture):
    """Two targets of a caption; the loop zeroes one head of the predicting token at a time, here 12 of 270 heads."""
    answer = mini.tokenizer("The image shows a kitchen with a fork and a knife.", add_special_tokens=False).input_ids
    batch = mini.encode([picture[1]], [DESCRIBE], [answer])
    start, ids = batch.response_start[0], batch.inputs["input_ids"]
    positions = [start + 7, start + 10]
    targets = ids[0, [p + 1 for p in positions]].tolist()
    ours = ablate_every_head(mini.model, batch.inputs, positions, targets)
    assert ours.heads.shape == (2, mini.n_layers, mini.n_heads)
    rng = random.Random(8)
    with torch.no_grad():
        for place, (position, target) in enumerate(zip(positions, targets, strict=True)):
            prefix = {**batch.inputs, "input_ids": ids[:, :position], "attention_mask": torch.ones(1, position)}
            cache = mini.model(**prefix, use_cache=True).past_key_values
            for head in [None, *rng.sample([(la, h) for la in range(mini.n_layers) for h in range(mini.n_heads)], 12)]:
                probability = float(single_step(mini, cache, ids[:, position : position + 1], head)[target])
                cache.crop(-1)
                found = ours.clean[place] if head is None else ours.heads[place][head]
                assert float(found.exp()) == pytest.approx(probability, abs=1e-5)


def single_step(mini, cache, token, head):
    """Next-token probabilities after one cached forward, with `head` zeroed by a hook on its o_proj input."""

    def zero(_, args):
        z = args[0].clone()
        z[..., head[1] * mini.d_head : (head[1] + 1) * mini.d_head] = 0
        return (z,)

    handle = mini.decoder_layers[head[0]].self_attn.o_proj.register_forward_pre_hook(zero) if head else None
    try:
        return mini.model(input_ids=token, past_key_values=cache, use_cache=True).logits[0, -1].softmax(-1)
    finally:
        if handle:
            handle.remove()


@pytest.mark.parametrize(
    ("decoder", "settings"),
    [(vcd, vcd.VcdSettings(alpha=0, do_sample=False)), (pai, pai.PaiSettings(alpha=0, gamma=1))],
    ids=["vcd", "pai"],
)
def test_without_their_contrast_decoders_are_greedy_on_mini(mini, picture, decoder, settings):
    prompts = [DESCRIBE, "What is this?"]
    batch = mini.encode([picture[1]] * 2, prompts)
    answers = answers_of(mini, batch, decoder.decode, settings, 24)
    assert answers == generate_greedily(mini, batch, 24)
    assert any(len(answer.token_ids) == 24 for answer in answers)


def test_halc_with_nothing_checked_is_dola_on_mini(mini, picture):
    """Every word is left to chance; with none, mini's own eye checks its nouns, and the caption is another."""
    mine = {"detector": "mini", "scorer": "mini"}
    batch = mini.encode([picture[1]], [DESCRIBE])
    unchecked, checked, base = (
        answers_of(mini, batch, decoder.decode, settings, 24)
        for decoder, settings in (
            (halc, halc.HalcSettings(**mine, skip_rate=1)),
            (halc, halc.HalcSettings(**mine)),
            (dola, dola.DolaSettings()),
        )
    )
    assert unchecked == base != checked


@pytest.mark.mini
def test_it_is_built_without_a_bar_or_a_warning(tmp_path):
    """As quickstart.sh builds it, not on a terminal."""
    flags = ["--base", str(tmp_path / "base"), "--model", str(tmp_path / "model")]
    for stage in ("base", "assemble"):
        command = [sys.executable, "-m", "llava_hh", "mini", stage, *flags]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "model" / "model.safetensors").is_file()
