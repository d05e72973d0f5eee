"""Encoding and captioning on a random LLaVA saved as a checkpoint folder."""

import pytest
import torch
from torch.testing import assert_close
from transformers import LlavaForConditionalGeneration

from llava_hh.attention.interventions import DeactivateText, ZeroHeads
from llava_hh.data.coco import load_image_list
from llava_hh.decoding.method import generate_greedily
from llava_hh.files.images import load_image
from llava_hh.heads import Head
from llava_hh.models.chat import render
from llava_hh.models.lvlm import DESCRIBE, Lvlm, load_lvlm


@pytest.fixture(scope="module")
def lvlm(tiny_checkpoint) -> Lvlm:
    return load_lvlm(tiny_checkpoint)


@pytest.fixture(scope="module")
def images(tiny_coco):
    rows = load_image_list(tiny_coco / "annotations" / "captions_val2014.json")
    return [load_image(tiny_coco / "val2014" / row["file_name"]) for row in rows[:5]]


def test_spans_of_a_mixed_batch(lvlm, images):
    batch = lvlm.encode(
        [images[0], None, images[1]], ["describe", "describe a dog and a cat", "a a a"], [[5, 6], [7], []]
    )
    ids, there = batch.inputs["input_ids"], batch.inputs["attention_mask"].bool()
    assert batch.image_mask.sum(1).tolist() == [4, 0, 4]
    assert (ids[batch.image_mask] == 120).all()
    for row, answer in enumerate([[5, 6], [7], []]):
        assert ids[row, batch.response_start[row] :].tolist() == answer
        assert there[row].tolist() == sorted(there[row].tolist())  # padding on the left
    assert batch.inputs["pixel_values"].shape[0] == 2


def test_encoding_equals_the_processor_alone(lvlm, images):
    text = render(lvlm.processor, DESCRIBE, with_image=True)
    alone = lvlm.processor(images=images[:1], text=[text], return_tensors="pt")
    batch = lvlm.encode(images[:1], [DESCRIBE])
    assert torch.equal(batch.inputs["input_ids"], alone["input_ids"])
    assert_close(batch.inputs["pixel_values"], alone["pixel_values"])


@pytest.mark.parametrize("edit", [None, ZeroHeads([Head(1, 2)]), DeactivateText([Head(0, 1), Head(2, 3)], 0.2)])
def test_a_batch_equals_single_images(lvlm, images, edit):
    edits = [edit] if edit else []
    prompts = ["describe", "describe a dog and the cat", "describe", "a a a", "the fork"]
    together = generate_greedily(lvlm, lvlm.encode(images, prompts), 12, edits)
    for image, prompt, answer in zip(images, prompts, together, strict=True):
        assert generate_greedily(lvlm, lvlm.encode([image], [prompt]), 12, edits) == [answer]


def test_an_answer_ends_at_the_end_token(lvlm, images, monkeypatch):
    batch = lvlm.encode(images[:1], [DESCRIBE])
    full = generate_greedily(lvlm, batch, 6)[0]
    assert (len(full.token_ids), full.finish_reason) == (6, "length")
    end = full.token_ids[3]
    monkeypatch.setattr(lvlm.model.generation_config, "eos_token_id", [end])
    cut = generate_greedily(lvlm, batch, 6)[0]
    assert cut.token_ids == full.token_ids[: full.token_ids.index(end)]
    assert cut.finish_reason == "stop"


def test_a_wrong_folder_or_family_is_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        load_lvlm(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ValueError, match="'gpt2' is not supported"):
        load_lvlm(tmp_path)


def test_missing_weights_are_an_error(tmp_path, lvlm):
    lvlm.model.save_pretrained(tmp_path)
    from safetensors.torch import load_file, save_file

    tensors = load_file(tmp_path / "model.safetensors")
    gone = next(key for key in tensors if key.endswith("layers.1.self_attn.q_proj.weight"))
    del tensors[gone]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="weights missing: .*q_proj"):
        load_lvlm(tmp_path)


def test_plain_transformers_loads_the_same_model(tiny_checkpoint, lvlm, images):
    plain = LlavaForConditionalGeneration.from_pretrained(tiny_checkpoint).eval()
    batch = lvlm.encode(images[:2], ["describe", "a dog"])
    with torch.no_grad():
        assert torch.equal(plain(**batch.inputs).logits, lvlm.model(**batch.inputs).logits)
