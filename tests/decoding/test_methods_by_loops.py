"""Methods of others step by step: fused, cached and batched against one row, whole passes, eager maps and loops."""

import json

import pytest

from llava_hh.attention.interventions import ScaleHeads, ZeroHeads
from llava_hh.decoding.making import Material
from llava_hh.decoding.reading import method_of
from llava_hh.heads import Head
from llava_hh.models.lvlm import load_lvlm
from tests.support.questions import IMAGES, QUESTIONS
from tests.support.steps_by_loops import largest_change
from tests.support.tiny_checkpoint import save_tiny_checkpoint
from tests.support.tiny_newer import save_tiny_family

N_STEPS = 5
TEXTS = [
    "devils:alpha=2",
    "vaf:layers=1-2,image=3,before=0.3",
    "vaf_unsigned:layers=1-2,image=2,before=0.5",
    "spin:kept=0.5",
    "vhr:alpha=3",
    "eah_paper:threshold=0.002",
    "eah_repo:threshold=0.001",
    "var:layers=1-2,kept=0.2,tau=27,most_sunk=0.8,least_mass=0.05",
    "ilvad:layers=0-2,alpha=2,jump=1.1",
    "ilvad_pope:alpha=3,beta=0.7,jump=1.3",
    "allpath:n_low=192,n_high=128,n_image=128",
]


@pytest.fixture(scope="module", params=["mha llava", "gqa llava", "qwen2_5_vl"])
def lvlm(request, tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("family") / request.param
    if request.param == "gqa llava":
        folder = tiny_checkpoint
    elif request.param == "mha llava":
        save_tiny_checkpoint(folder, n_kv=4)
    else:
        save_tiny_family(request.param, folder)
    return load_lvlm(folder)


@pytest.fixture
def material(lvlm, tmp_path):
    lists = {"highest": [[1, 0], [2, 3], [0, 1]], "lowest": [[3, 1], [1, 2], [2, 0]]}
    looking = {"highest": [[2, 3], [0, 2]], "lowest": [[0, 0]]}
    tasks = dict.fromkeys(("chair", "pope"), {"text": lists, "image": looking})
    (tmp_path / "allpath.json").write_text(json.dumps(tasks))
    return Material(lvlm)


def edits_of(text, material, tmp_path):
    if text.startswith("allpath"):
        text += f',heads="{tmp_path}/allpath.json"'
    return method_of(text, material).method.interventions


@pytest.mark.parametrize("text", TEXTS)
def test_steps_equal_whole_passes_over_eager_maps(lvlm, material, tmp_path, text):
    assert largest_change(lvlm, edits_of(text, material, tmp_path), IMAGES[:2], QUESTIONS[:2], N_STEPS) > 0.01


def test_scale_0_is_removal(lvlm, material, tmp_path):
    heads = tuple(Head(*pair) for pair in ([1, 2], [2, 0], [3, 1]))
    batch = lvlm.encode(IMAGES, QUESTIONS)
    text = f'allpath:n_low=192,n_high=0,n_image=0,heads="{tmp_path}/allpath.json"'
    method = method_of(text, material).method
    assert method.interventions == (ScaleHeads(heads, (0.0, 0.0, 0.0)),)
    removed = method_of('removal:heads="L1H2,L2H0,L3H1"', Material(lvlm)).method
    assert removed.interventions == (ZeroHeads(heads),)
    assert method.answer(lvlm, batch, 6).answers == removed.answer(lvlm, batch, 6).answers
