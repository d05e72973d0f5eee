"""Heads of Llama-3.2-Vision's layers that attend to the image alone: what takes them, and what leaves them out."""

import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from llava_hh.attention.modules import heads_on_image_alone
from llava_hh.decoding.head_lists import control_heads, heads_with_text
from llava_hh.experiments.measures.attention_inheritance import load_base
from llava_hh.files.files import read_json
from llava_hh.heads import Head
from llava_hh.models.lvlm import Lvlm, load_lvlm
from llava_hh.scripts import caption, evaluate, figure, finetune
from tests.support.main_job import caption_flags
from tests.support.tiny_newer import save_tiny_family
from tests.support.verbs import score_chair

TEXT = [[0, 1], [2, 3], [2, 0], [0, 2]]
WITHOUT_TEXT = "attend to the image alone, nothing comes after it there: "
GROUPS = ("hal_heads", "non_hal_heads")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Three layers of four heads; layer 1 attends to the image alone."""
    folder = tmp_path_factory.mktemp("alone") / "mllama"
    save_tiny_family("mllama", folder)
    return folder


@pytest.fixture(scope="module")
def lvlm(checkpoint) -> Lvlm:
    return load_lvlm(checkpoint)


@pytest.fixture(scope="module")
def words(checkpoint, tiny_coco, tmp_path_factory) -> list[str]:
    """The flags of what looks at captions."""
    folder = tmp_path_factory.mktemp("words")
    caption.main([*caption_flags(checkpoint, tiny_coco, folder), "--limit", "6"])
    score_chair(["--captions", str(folder / "captions.jsonl"), "--annotations", str(tiny_coco / "annotations")])
    flags = ["--model", checkpoint, "--image-folder", tiny_coco / "train2014"]
    return [str(flag) for flag in (*flags, "--captions", folder / "captions_eval_results.json", "--limit", 3)]


def heads_file(folder: Path, hal: list, non_hal: list = TEXT) -> list[str]:
    path = folder / "heads.json"
    path.write_text(json.dumps({"hal_heads": hal, "non_hal_heads": non_hal}))
    return ["--heads", str(path), "--top-k", str(len(hal))]


def test_which_heads_these_are(lvlm):
    assert heads_on_image_alone(lvlm.model) == [Head(1, 0), Head(1, 1), Head(1, 2), Head(1, 3)]


def test_controls_are_drawn_from_what_the_intervention_can_take(lvlm):
    drawn = [control_heads(lvlm, [Head(0, 1), Head(2, 3)], seed) for seed in range(100)]
    assert {head for own in drawn for head in own} == {
        Head(layer, head) for layer in (0, 2) for head in range(4) if [layer, head] not in TEXT[:2]
    }
    drawn = [control_heads(lvlm, [Head(0, 1)], seed, with_text=False) for seed in range(100)]
    assert {own[0].layer for own in drawn} == {0, 1, 2}


def test_controls_of_other_models_are_those_of_the_whole_model(tiny_checkpoint):
    """For every seed what a sample of all other heads, layer by layer, gives; so finished runs go on."""
    lvlm = load_lvlm(tiny_checkpoint)
    chosen = [Head(0, 1), Head(3, 2)]
    others = [Head(layer, head) for layer in range(4) for head in range(4) if Head(layer, head) not in chosen]
    for seed in range(50):
        assert control_heads(lvlm, chosen, seed) == random.Random(seed).sample(others, 2)
    assert heads_with_text(lvlm, chosen, refuse=True) == chosen


def test_adhh_with_random_heads_goes_through(checkpoint, tiny_coco, tmp_path):
    flags = ["--model", checkpoint, "--image-folder", tiny_coco / "val2014", "--out", tmp_path / "out", "--limit", 2]
    flags += ["--annotations", tiny_coco / "annotations", "--max-new-tokens", 4]
    flags += [*heads_file(tmp_path, TEXT[:2])[:2], "--methods", "adhh:top_k=2", "random:draws=6,of=adhh"]
    evaluate.main([*map(str, flags)])
    assert len(read_json(tmp_path / "out/summary.json")["methods"]["random heads"]["draws"]) == 6


def test_removal_draws_from_all_heads(checkpoint, tiny_coco, tmp_path):
    flags = ["--model", checkpoint, "--image-folder", tiny_coco / "val2014", "--out", tmp_path / "out", "--limit", 1]
    flags += ["--annotations", tiny_coco / "annotations", "--max-new-tokens", 2]
    flags += [*heads_file(tmp_path, TEXT[:2])[:2], "--methods", "removal:top_k=2", "random:draws=3,of=removal"]
    evaluate.main([*map(str, flags)])
    drawn = [read_json(path)["settings"]["interventions"] for path in tmp_path.glob("out/random-*/run.json")]
    assert len(drawn) == 3 and any(layer == 1 for [each] in drawn for layer, _ in each["heads"])


@pytest.mark.parametrize(
    "more",
    [
        ["--methods", "adhh:top_k=3", "--choose"],
        ["--methods", "adhh:top_k=3", "--task", "loss"],
        ["--methods", "scale:top_k=3,alpha=0.5"],
        ["--methods", "vcd_paper+adhh:top_k=3"],
        None,
    ],
)
def test_a_list_that_a_method_cannot_take_is_refused_before_any_captioning(
    more, checkpoint, tiny_coco, tmp_path, capsys
):
    flags = ["--model", checkpoint, "--image-folder", tiny_coco / "val2014", "--out", tmp_path / "out"]
    listed = heads_file(tmp_path, [[0, 1], [1, 2], [1, 0]])
    if more is None:
        flags += listed
        data = [{"id": "0", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "dog"}]}]
        (tmp_path / "data.json").write_text(json.dumps(data))
        flags += ["--data", tmp_path / "data.json", "--random-heads", 1]
    else:
        flags += ["--annotations", tiny_coco / "annotations", "--split", "val2014", *listed[:2], *more]
    with pytest.raises(SystemExit) as stopped:
        (finetune if more is None else evaluate).main([str(flag) for flag in flags])
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error == f"error: these heads {WITHOUT_TEXT}L1H2, L1H0"
    assert not list((tmp_path / "out").rglob("run.json"))


def test_more_attention_to_the_image_takes_every_head(checkpoint, tiny_coco, tmp_path):
    flags = ["--model", checkpoint, "--image-folder", tiny_coco / "val2014", "--out", tmp_path / "out", "--limit", 2]
    flags += ["--annotations", tiny_coco / "annotations", "--max-new-tokens", 3]
    flags += [*heads_file(tmp_path, [[1, 0], [0, 1]])[:2]]
    scaled = "scale:top_k=2,span=image,alpha=2.0"
    evaluate.main([*map(str, flags), "--methods", scaled, f'random:draws=2,of="{scaled}"'])
    (run,) = tmp_path.glob("out/scale-*/run.json")
    assert read_json(run)["settings"]["interventions"][0]["heads"] == [[1, 0], [0, 1]]


def test_figure_3_leaves_such_heads_out_by_name(words, tmp_path, capsys):
    """What is said of the other heads is what is said of them alone."""
    results = {}
    for name, hal in {"mixed": [[0, 1], [1, 2], [2, 3]], "alone": [[0, 1], [2, 3]]}.items():
        (tmp_path / name).mkdir()
        flags = heads_file(tmp_path / name, hal, TEXT[2:] + [[1, 0]] * (name == "mixed"))
        figure.main(["bias", *words, *flags, "--out", str(tmp_path / name / "out")])
        results[name] = read_json(tmp_path / name / "out/attention_bias.json")["groups"]
        said = [line for line in capsys.readouterr().out.splitlines() if WITHOUT_TEXT in line]
        expected = [f"left out: these heads {WITHOUT_TEXT}{head}" for head in ("L1H2", "L1H0")]
        assert said == (expected if name == "mixed" else [])
    for group in GROUPS:
        mixed, alone = (results[name][group] for name in ("mixed", "alone"))
        assert [own["head"] for own in mixed["heads"]] == [own["head"] for own in alone["heads"]]
        for part in ("image_mass", "after_image_mass"):
            assert mixed["all"][part]["mean"] == pytest.approx(alone["all"][part]["mean"], abs=1e-6)


@pytest.mark.parametrize("name", ["bias", "words"])
def test_nothing_but_such_heads_is_one_line(name, words, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        figure.main([name, *words, *heads_file(tmp_path, [[1, 3], [1, 1]]), "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error == f"error: these heads {WITHOUT_TEXT}L1H3, L1H1"


def test_word_maps_name_what_they_leave_out(words, tmp_path, capsys):
    figure.main(["words", *words, *heads_file(tmp_path, [[1, 3], [2, 0]]), "--out", str(tmp_path / "out")])
    assert f"left out: these heads {WITHOUT_TEXT}L1H3\n" in capsys.readouterr().out
    assert read_json(tmp_path / "out/word_maps.json")["heads"] == [[2, 0]]


def test_figure_4_refuses_the_model_by_its_layers(lvlm, tmp_path):
    with pytest.raises(ValueError, match=re.escape("layers [1] attend to the image alone")):
        load_base(tmp_path, lvlm)


def test_figure_5_takes_every_head(checkpoint, words, tmp_path):
    """Attention over the image's keys is a distribution as well; a model has not moved from itself."""
    shutil.copytree(checkpoint, tmp_path / "checkpoint-10")
    flags = ["--reference", str(checkpoint), "--checkpoints", str(tmp_path / "checkpoint-10"), *words[2:]]
    figure.main(["divergence", *flags, *heads_file(tmp_path, [[1, 3], [2, 0]]), "--out", str(tmp_path / "out")])
    [step] = read_json(tmp_path / "out/js_divergence.json")["steps"]
    assert np.array(step["all_heads"]).shape == (3, 4) and not np.any(step["all_heads"])
