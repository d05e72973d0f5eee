"""VTI: against whole passes with loops, in a batch, what does nothing, what bites; files that do not fit."""

from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from llava_hh.attention.modules import decoder_layers
from llava_hh.baselines import vti
from llava_hh.baselines.vti import VtiSettings
from llava_hh.decoding.making import Material
from llava_hh.decoding.method import CannotDecode, generate_greedily
from llava_hh.decoding.reading import inputs_of, method_of, read_methods
from llava_hh.files.tensors import TENSORS_MARK
from llava_hh.models.lvlm import load_lvlm
from llava_hh.runs.identity import identify_checkpoint
from tests.support.decoding import (
    as_batch,
    as_lvlm,
    assert_ends_and_suppressed_ids,
    double,
    eight_rows,
    forward,
    generated,
    single_rows,
)
from tests.support.questions import IMAGES, QUESTIONS
from tests.support.tiny import IMAGE_TOKEN
from tests.support.tiny_minigpt4 import also_of_minigpt4
from tests.support.tiny_newer import save_tiny_family
from tests.support.tiny_vti import drawn_vectors, encoder_layers, steered_by_loops, write_vectors

N_TOKENS = 4
STRONG = [VtiSettings(12, 0), VtiSettings(0, 9), VtiSettings(9, 7)]


def decode(model, batch, settings):
    return vti.decode(as_lvlm(model), as_batch(batch), settings, N_TOKENS)


@pytest.fixture
def vectors(llava):
    """Random ones, some of length 0."""
    arrays = drawn_vectors(llava)
    arrays["text"][1] = arrays["image"][0, 2] = 0
    return arrays


@pytest.fixture
def bank(llava, vectors, tmp_path):
    return str(write_vectors(tmp_path / "vectors.safetensors", llava, vectors))


@also_of_minigpt4
@torch.no_grad()
@pytest.mark.parametrize("settings", STRONG)
def test_tokens_follow_from_whole_passes(llava, vectors, bank, settings):
    """Steering acts on all positions alike, so that a whole pass is a cached step."""
    model, batch = double(llava), eight_rows(torch.float64)
    rows, changed = decode(model, batch, replace(settings, vectors=bank)), False
    for row, (alone, _) in zip(rows, single_rows(batch), strict=True):
        answer = []
        with ExitStack() as stack:
            stack.enter_context(steered_by_loops(encoder_layers(model), vectors["image"], settings.alpha_image))
            stack.enter_context(steered_by_loops(decoder_layers(model), vectors["text"], settings.alpha_text))
            for token in row:
                logits = forward(model, alone, answer).logits[0, -1]
                logits[IMAGE_TOKEN] = -torch.inf
                assert logits[token] > logits.max() - 1e-4
                answer.append(token)
        changed |= row != generated(model, alone, N_TOKENS)[0]
    assert changed


def test_nothing_is_greedy_and_a_batch_equals_its_rows(llava, bank):
    batch = eight_rows()
    greedy = generated(llava, batch, N_TOKENS)
    assert decode(llava, batch, VtiSettings(0, 0, bank)) == greedy
    for given in STRONG:
        settings = replace(given, vectors=bank)
        rows = decode(llava, batch, settings)
        assert rows == [decode(llava, alone, settings)[0] for alone, _ in single_rows(batch)] != greedy
        assert_ends_and_suppressed_ids(llava, lambda own, settings=settings: decode(llava, own, settings))
    assert not any(layer.mlp._forward_hooks for layer in [*decoder_layers(llava), *encoder_layers(llava)])


def test_vectors_of_length_0_do_not_steer(llava, vectors, tmp_path):
    path = write_vectors(tmp_path / "none.safetensors", llava, {name: 0 * array for name, array in vectors.items()})
    batch = eight_rows()
    assert decode(llava, batch, VtiSettings(9, 9, str(path))) == generated(llava, batch, N_TOKENS)


def test_a_bank_without_image_vectors_steers_text_alone(gqa_llava, tmp_path):
    text = {"text": drawn_vectors(gqa_llava)["text"]}
    path = str(write_vectors(tmp_path / "text.safetensors", gqa_llava, text))
    assert decode(gqa_llava, eight_rows(), VtiSettings(0, 9, path)) != generated(gqa_llava, eight_rows(), N_TOKENS)
    with pytest.raises(CannotDecode, match="^no image vectors; steer by text alone, alpha_image=0$"):
        decode(gqa_llava, eight_rows(), VtiSettings(vectors=path))


def damage(what, vectors, path, model):
    """A file that does not fit, and what is said of it."""
    text, image = vectors["text"], vectors["image"]
    if what in ("cut", "words", "empty"):
        whole = path.read_bytes()
        path.write_bytes({"cut": whole[: len(whole) // 2], "words": b"no tensors", "empty": b""}[what])
        return "damaged or cut off"
    if what in ("unmarked", "no json"):
        save_file(vectors, path, {TENSORS_MARK: "?"} if what == "no json" else None)
        return "does not say what it was made of; expected a file that llava-hh prepare-vti makes"
    changed, problem = {
        "layers": (
            {"text": text[1:], "image": image},
            r"'text' are float32 \(3, 32\); expected finite",
        ),
        "tokens": ({"text": text, "image": image[:, 1:]}, r"'image' are float32 \(2, 4, 32\); expected finite"),
        "nan": ({"text": text * np.nan, "image": image}, "'text' are float32"),
        "type": ({"text": text.astype(np.float16)}, "'text' are float16"),
        "missing": ({"image": image}, "'text' are missing"),
        "more": ({**vectors, "sound": text}, "'sound' are .*; this model has none"),
    }[what]
    write_vectors(path, model, changed)
    return problem


DAMAGES = ["cut", "words", "empty", "layers", "tokens", "nan", "type", "missing", "more", "unmarked", "no json"]


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_bank_is_one_line(what, gqa_llava, tmp_path):
    arrays = drawn_vectors(gqa_llava)
    path = write_vectors(tmp_path / "vectors.safetensors", gqa_llava, arrays)
    problem = damage(what, arrays, path, gqa_llava)
    with pytest.raises(ValueError, match=f"vectors.safetensors: .*{problem}") as error:
        decode(gqa_llava, eight_rows(), VtiSettings(vectors=str(path)))
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def lvlm(tiny_checkpoint):
    return load_lvlm(tiny_checkpoint)


def test_a_method_of_a_model(lvlm, tmp_path, monkeypatch):
    """The file's content is held to; another model's, and one that is not there, is one line."""
    own = identify_checkpoint(lvlm.path)
    path = write_vectors(tmp_path / "own.safetensors", lvlm.model, drawn_vectors(lvlm.model), own)
    other = write_vectors(
        tmp_path / "b.safetensors", lvlm.model, drawn_vectors(lvlm.model), {"name": "b", "sha256": "0"}
    )
    method = method_of(f'vti:vectors="{path}"', Material(lvlm)).method
    described = method.describe()["decoder"]
    assert described["vectors"]["name"] == "own.safetensors" and described["alpha_text"] == 0.9
    batch = lvlm.encode(IMAGES, QUESTIONS)
    greedy = generate_greedily(lvlm, batch, N_TOKENS)
    assert (
        method_of(f'vti:alpha_image=0,alpha_text=0,vectors="{path}"', Material(lvlm))
        .method.answer(lvlm, batch, N_TOKENS)
        .answers
        == greedy
    )
    with pytest.raises(ValueError, match=r"^method 'vti:.*b.safetensors: found on another model than .* \(b\)"):
        method_of(f'vti:vectors="{other}"', Material(lvlm))
    with pytest.raises(ValueError, match="no such file; expected one that llava-hh prepare-vti makes, or published"):
        method_of("vti:vectors=none", Material(lvlm))
    with pytest.raises(ValueError, match="no vectors are published for a llava of 4 layers of 4 heads, 2 of keys"):
        method_of("vti", Material(lvlm))
    monkeypatch.setattr("llava_hh.steering.bank.PUBLISHED", tmp_path)
    (tmp_path / "vti").mkdir()
    published = path.rename(tmp_path / "vti" / "tiny.safetensors")
    found = method_of("vti", Material(lvlm)).method
    assert found.settings.vectors == str(published) and found.name == "vti"
    assert found.describe()["decoder"]["vectors"]["name"] == "tiny.safetensors"
    assert vti.decode(lvlm, batch, VtiSettings(), N_TOKENS) == vti.decode(lvlm, batch, found.settings, N_TOKENS)
    assert [str(each) for each in inputs_of(read_methods(["vti"]))][-1] == "published"


def test_other_towers_have_text_alone(tmp_path):
    save_tiny_family("qwen2_5_vl", tmp_path / "model")
    lvlm = load_lvlm(tmp_path / "model")
    text = lvlm.model.config.get_text_config()
    arrays = {"text": np.random.default_rng(0).normal(0, 1, (4, text.hidden_size)).astype(np.float32)}
    path = str(write_vectors(tmp_path / "vectors.safetensors", lvlm.model, arrays))
    batch = lvlm.encode(IMAGES, QUESTIONS)
    rows = vti.decode(lvlm, batch, VtiSettings(0, 9, path), N_TOKENS)
    greedy = [answer.token_ids for answer in generate_greedily(lvlm, batch, N_TOKENS)]
    assert rows != greedy == vti.decode(lvlm, batch, VtiSettings(0, 0, path), N_TOKENS)
    alone = [lvlm.encode([image], [text]) for image, text in zip(IMAGES, QUESTIONS, strict=True)]
    assert rows == [vti.decode(lvlm, own, VtiSettings(0, 9, path), N_TOKENS)[0] for own in alone]
    with pytest.raises(CannotDecode, match="reads every image as the same tokens; steer by text alone, alpha_image=0"):
        vti.decode(lvlm, batch, VtiSettings(vectors=path), N_TOKENS)


def test_settings_that_cannot_be_are_one_line():
    with pytest.raises(ValueError, match="alpha_text must be a number of at least 0, not -1"):
        VtiSettings(alpha_text=-1)
    with pytest.raises(ValueError, match="vectors must be a file that prepare-vti makes"):
        VtiSettings(vectors="")
