"""What the harness refuses, in one line: before anything is written, or before any captioning."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from test_evaluate import ADHH, VCD, flags_for, token_ids
from tiny_results import of_kind

from llava_hh.scripts import evaluate

NOWHERE = [
    (["vcd"], "no kind of method 'vcd'; there are greedy, adhh, removal"),
    (["greedy", "greedy"], "method 'greedy': it is named more than once"),
    (["vcd_paper:gamma=1"], "no field of vcd_paper 'gamma'; "),
    (["vcd_paper:gain=1"], "there are alpha, beta"),
    (["vcd_paper:beta=2"], "beta must be above 0 and at most 1, not 2"),
    (["vcd_paper:alpha=much"], "alpha must be a number of at least 0, not 'much'"),
    (["vcd_paper:alpha"], "'alpha' is no field=value"),
    (["adhh", "--heads", "nowhere.json"], "nowhere.json"),
    (["adhh:heads=nowhere.json"], "nowhere.json"),
    (["pai+adhh:heads=nowhere.json"], "nowhere.json"),
    (["random:of=removal", "--heads", "nowhere.json"], "nowhere.json"),
    (["random:of=remove"], "no kind of method 'remove'; did you mean removal?"),
    (["tfhh"], 'needs path="FOLDER"'),
    (["tfhh:path=nowhere"], "nowhere: no config.json there"),
    (["greedy", "--model", "nowhere"], "nowhere: no config.json there"),
    (["pai:limit"], "'limit' is no field=value"),
    (["pai:limit=0"], "limit: expected a whole number of at least 1"),
    (["pai:limit=-1"], "limit: expected a whole number of at least 1"),
    (["pai:limit=all"], "limit: expected a whole number of at least 1"),
    (["operas:limit=3"], "no kind of method 'operas'; did you mean opera?"),
    (["greedy:limit=3"], "greedy decoding has all images"),
    (["pai:limit=3", "--task", "pope"], "method 'pai:limit=3': limit goes with --task chair, not pope"),
    (["removal:limit=3", "--task", "loss"], "method 'removal:limit=3': limit goes with --task chair, not loss"),
    (["removal", "--task", "loss", "--choose"], "--choose: belongs to --task chair, not loss"),
]


@pytest.fixture(scope="module")
def flags(tiny_checkpoint, tiny_coco, tmp_path_factory) -> list[str]:
    return flags_for(tiny_checkpoint, tiny_coco, tmp_path_factory.mktemp("heads"))


@pytest.fixture(scope="module")
def done(flags, tmp_path_factory) -> Path:
    """The folder of greedy decoding and VCD."""
    out = tmp_path_factory.mktemp("methods")
    evaluate.main([*flags, "--methods", VCD, "--out", str(out)])
    return out


def one_line_error(flags: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(flags)
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    return error


@pytest.mark.parametrize(("methods", "message"), NOWHERE, ids=[" ".join(methods) for methods, _ in NOWHERE])
def test_wrong_flags_are_one_line_before_anything_is_written(methods, message, flags, tmp_path, capsys):
    assert message in one_line_error([*flags, "--out", str(tmp_path / "out"), "--methods", *methods], capsys)
    assert not (tmp_path / "out").exists()


def test_no_head_list_is_one_line_before_anything_is_written(flags, tmp_path, capsys):
    without = [*flags, "--out", str(tmp_path / "out"), "--methods", "removal"]
    place = without.index("--heads")
    del without[place : place + 2]
    assert "needs heads=FILE, or --heads" in one_line_error(without, capsys)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_weights(flags, tiny_checkpoint, tmp_path, capsys):
    shutil.copytree(tiny_checkpoint, tmp_path / "empty", ignore=shutil.ignore_patterns("*.safetensors"))
    more = ["--methods", f'tfhh:path="{tmp_path / "empty"}"', "--out", str(tmp_path / "out")]
    assert "no weight files" in one_line_error([*flags, *more], capsys)
    assert not (tmp_path / "out").exists()


LATE = [
    ('dola_repo:candidate_layers="[0,9]"', "candidate_layers (0, 9) do not fit"),
    ("adhh:top_k=4", "4"),
    ("adhh:top_k=2,threshold=2", "threshold"),
]


@pytest.mark.parametrize(("method", "message"), LATE, ids=[method for method, _ in LATE])
def test_what_the_model_cannot_have_stops_before_any_captioning(method, message, flags, tmp_path, capsys):
    assert message in one_line_error([*flags, "--methods", method, "--out", str(tmp_path)], capsys)
    assert not list(tmp_path.glob("*/"))


@pytest.mark.parametrize(("lacks", "message"), [(True, "weights missing"), (False, "weights of another shape")])
def test_a_checkpoint_of_wrong_weights_stops_before_any_captioning(
    lacks, message, flags, tiny_checkpoint, tmp_path, capsys
):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, broken)
    tensors = load_file(broken / "model.safetensors")
    name = next(key for key in tensors if key.endswith("layers.1.self_attn.q_proj.weight"))
    weight = tensors.pop(name)
    if not lacks:
        tensors[name] = weight[1:].clone()
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    more = ["--methods", "vcd_paper", f'tfhh:path="{broken}"', "--out", str(tmp_path / "out")]
    assert message in one_line_error([*flags, *more], capsys)
    assert not list((tmp_path / "out").glob("*/"))


def test_a_folder_of_other_settings_stops_before_any_captioning(flags, done, tmp_path, capsys):
    name = of_kind(done, "vcd_paper").name
    shutil.copytree(done / name, tmp_path / name)
    more = ["--methods", ADHH, VCD, "--max-new-tokens", "9", "--out", str(tmp_path)]
    assert "max_new_tokens was 8, is 9" in one_line_error([*flags, *more], capsys)
    assert [path.name for path in tmp_path.glob("*/")] == [name]


def test_other_settings_of_a_method_have_their_own_folder(flags, done, tmp_path):
    """Neither is refused nor captions greedy decoding again."""
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/blocks/*.json")}
    evaluate.main([*flags, "--methods", "vcd_paper:alpha=1.5,noise_step=999", "--out", str(tmp_path)])
    assert kept and all(path.stat().st_mtime_ns == when for path, when in kept.items())
    first, other = sorted(tmp_path.glob("vcd_paper-*"))
    assert token_ids(first) != token_ids(other)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert len(summary["methods"]) == 2
