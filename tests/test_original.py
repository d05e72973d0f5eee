"""LLaVA's original layouts: the same model as from llava-hf's layout, token for token; wrong files in one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from sentencepiece import SentencePieceProcessor
from test_llava15 import PHOTOS
from tiny_llava15 import llama_tokenizer, save_tiny_llava15
from tiny_original import (
    CLIP,
    is_towers,
    original_fields,
    original_weights,
    save_clip,
    save_tokenizer_model,
    save_weights,
)
from torch.testing import assert_close
from transformers import LlavaForConditionalGeneration

from llava_hh.generation import generate_greedily
from llava_hh.models.llava import vicuna_prompt
from llava_hh.models.lvlm import DESCRIBE, Lvlm, load_lvlm

N_WORDS = len(llama_tokenizer()) - 2  # without <image> and <pad>


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Lvlm:
    """The model in llava-hf's layout."""
    folder = tmp_path_factory.mktemp("published") / "llava-1.5-tiny-hf"
    save_tiny_llava15(folder)
    return load_lvlm(folder)


@pytest.fixture(scope="module")
def weights(published) -> dict[str, torch.Tensor]:
    return original_weights(published.model, N_WORDS)


@pytest.fixture
def write(published, weights, tmp_path):
    """Write the model in an original layout, its vision tower beside it or inside."""

    def write(stem="pytorch_model.bin", n_shards=1, tower_inside=False, renamed=None, **fields) -> Path:
        folder = tmp_path / "checkpoints" / "llava-v1.5-tiny"
        kept = {name: tensor for name, tensor in weights.items() if tower_inside or not is_towers(name)}
        for name, new in (renamed or {}).items():
            kept[new] = kept.pop(name)
        save_weights(folder, kept, stem, n_shards)
        save_clip(folder.parent / CLIP, weights, published.model.config.vision_config)
        write_rest(folder, published, **fields)
        return folder

    return write


def write_rest(folder: Path, published: Lvlm, **fields) -> None:
    (folder / "config.json").write_text(json.dumps(original_fields(published.model.config, N_WORDS, **fields)))
    save_tokenizer_model(folder, llama_tokenizer().convert_ids_to_tokens(list(range(N_WORDS))))


def assert_same_model(lvlm: Lvlm, published: Lvlm) -> None:
    """Same ids, pixels and logits; same captions, although llava-hf's has rows more."""
    answers = [[5, 6, 7], [300], []]
    batch, expected = (each.encode(PHOTOS, [DESCRIBE, "a dog?", "a"], answers) for each in (lvlm, published))
    mask = expected.inputs["attention_mask"].bool()
    assert torch.equal(batch.inputs["attention_mask"].bool(), mask)
    assert torch.equal(batch.inputs["input_ids"][mask], expected.inputs["input_ids"][mask])
    assert torch.equal(batch.inputs["pixel_values"], expected.inputs["pixel_values"])
    assert torch.equal(batch.image_mask, expected.image_mask)
    with torch.no_grad():
        logits, own = published.model(**expected.inputs).logits[mask], lvlm.model(**batch.inputs).logits[mask]
    assert_close(own[:, :N_WORDS], logits[:, :N_WORDS], atol=1e-5, rtol=1e-5)
    prompts = [each.encode(PHOTOS, [DESCRIBE] * 3) for each in (lvlm, published)]
    captions, greedy = (generate_greedily(each, own, 8) for each, own in zip((lvlm, published), prompts, strict=True))
    assert captions == greedy
    assert any(answer.token_ids for answer in captions)


@pytest.mark.parametrize("n_shards", [1, 3])
@pytest.mark.parametrize("stem", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("tower_inside", [False, True], ids=["tower-beside", "tower-inside"])
def test_every_layout_is_the_same_model(stem, n_shards, tower_inside, write, published):
    folder = write(stem, n_shards, tower_inside, model_type="llava_llama" if tower_inside else "llava")
    (folder / "training_args.bin").write_bytes(b"no tensors")  # a trainer leaves it there
    assert_same_model(load_lvlm(folder), published)
