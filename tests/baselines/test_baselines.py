"""All decoders through the door that the evaluation takes, on a checkpoint of LLaVA-1.5's layout, in two precisions."""

import importlib
from dataclasses import replace

import pytest
import torch
from PIL import Image

from llava_hh.baselines.dola import DolaSettings
from llava_hh.baselines.opera import OperaSettings
from llava_hh.baselines.pai import PaiSettings
from llava_hh.baselines.vcd import VcdSettings
from llava_hh.decoding.method import generate_greedily
from llava_hh.models.loading import Loading
from llava_hh.models.lvlm import DESCRIBE, Lvlm, load_lvlm
from tests.support.decoding import answers_of
from tests.support.tiny_llava15 import OBJECTS, save_tiny_llava15

N_TOKENS = 6
NAMES = ["greedy", "vcd", "dola", "opera", "pai"]
PROMPTS = [DESCRIBE, "describe the dog and the cat", "a car", "a cup"]
DECODERS = {name: importlib.import_module(f"llava_hh.baselines.{name}").decode for name in NAMES}
PRESETS = [
    (name, preset, settings)
    for name in NAMES
    for preset, settings in importlib.import_module(f"llava_hh.baselines.{name}").PRESETS.items()
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava15") / "tiny"
    save_tiny_llava15(folder)
    return folder


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def lvlm(request, checkpoint) -> Lvlm:
    return load_lvlm(checkpoint, Loading(request.param))


@pytest.fixture(scope="module")
def exact(checkpoint) -> Lvlm:
    """In fp32, where no two tokens are equally likely."""
    return load_lvlm(checkpoint, Loading("float32"))


@pytest.fixture(scope="module")
def photos():
    colours = ((200, 30, 40), (10, 220, 90), (60, 70, 250))
    return [*(Image.new("RGB", (30 + 9 * i, 40 - 6 * i), colour) for i, colour in enumerate(colours)), None]


def encode(lvlm, photos, rows=slice(None)):
    return lvlm.encode(photos[rows], PROMPTS[rows], sample_ids=[f"photo {i}" for i in range(len(photos))][rows])


@pytest.mark.parametrize(("name", "preset", "settings"), PRESETS, ids=[preset for _, preset, _ in PRESETS])
def test_presets_answer_in_the_vocabulary(lvlm, photos, name, preset, settings):
    answers = answers_of(lvlm, encode(lvlm, photos), DECODERS[name], settings, N_TOKENS)
    assert len(answers) == len(photos)
    for answer in answers:
        assert answer.finish_reason == ("stop" if len(answer.token_ids) < N_TOKENS else "length")
        assert not set(answer.token_ids) & set(lvlm.model.generation_config.suppress_tokens)
        assert set(lvlm.tokenizer.decode(answer.token_ids).split()) <= set(OBJECTS) or name == "vcd"
    again = answers_of(lvlm, encode(lvlm, photos), DECODERS[name], settings, N_TOKENS)
    assert again == answers
    if lvlm.model.dtype == torch.float32:
        for i, answer in enumerate(answers):
            alone = encode(lvlm, photos, slice(i, i + 1))
            assert answers_of(lvlm, alone, DECODERS[name], settings, N_TOKENS) == [answer]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vcd", VcdSettings(alpha=0, beta=1e-6, do_sample=False)),
        ("vcd", replace(VcdSettings(), beta=1.0)),
        ("dola", DolaSettings(relative_top=1.0)),
        ("opera", OperaSettings(num_candidates=1, threshold=10_000)),
        ("opera", OperaSettings(num_beams=1, penalty_weight=0, threshold=10_000)),
        ("pai", PaiSettings(alpha=0, gamma=1)),
    ],
)
def test_settings_that_do_nothing_are_greedy(exact, photos, name, settings):
    batch = encode(exact, photos)
    answers = answers_of(exact, batch, DECODERS[name], settings, N_TOKENS)
    assert answers == generate_greedily(exact, batch, N_TOKENS)
