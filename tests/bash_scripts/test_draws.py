"""A draw of images names its folder in every wrapper; what wrappers read lies where others write it."""

import argparse
import os
import subprocess
from itertools import chain
from pathlib import Path

import pytest

from llava_hh.command_line.profiles import EXPECTED, read_profile
from llava_hh.decoding.grammar import parse
from tests.support.repository import ROOT
from tests.support.wrappers import OF_PROFILES, calls_of, parsed

OTHERS = ("--list-length", "--top-k", "--random-draws", "--prompt")
NUMBERS = {name: 300 + place for place, name in enumerate(EXPECTED) if name.endswith("_images")}
NAMED = [  # flags after the profile's 500 and 42, and the folder
    ([], "val2014-500-seed42"),
    (["--limit", "60"], "val2014-60-seed42"),
    (["--limit=60", "--seed=7"], "val2014-60-seed7"),
    (["--seed", "7", "--seed", "8", "--limit", "9", "--limit=10"], "val2014-10-seed8"),
    (["--lim", "60", "--see=7"], "val2014-60-seed7"),
    (["--list-length", "30", "--top-k", "5", "--random-draws", "3"], "val2014-500-seed42"),
    (["--prompt", "What is --seed 3, please?", "--seed", "7"], "val2014-500-seed7"),
    (["--split=train2014", "--limit", "60"], "train2014-60-seed42"),
]


def drawn(*words: str) -> str:
    """What the function says of these words, with a profile of mini."""
    script = '. bash_scripts/profile.sh && drawn "$@"'
    environment = {**os.environ, "PROFILE": "mini"}
    command = ["sh", "-euc", script, "sh", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.removesuffix("\n")


def draw_of(args: argparse.Namespace) -> str | None:
    """The name that a call's folder should have; None if it draws no images."""
    if not {"split", "limit", "seed"} <= vars(args).keys():
        return None
    return f"{args.split}-{args.limit}-seed{args.seed}"


def names_in(path: Path) -> set[str]:
    """Parts of a path without what stands before or after the name of a draw."""
    return {part.removeprefix("nocaps_").removesuffix("_with").removesuffix("_without") for part in path.parts}


@pytest.fixture(scope="module")
def profile(tmp_path_factory) -> Path:
    """mini's with another number everywhere, nocaps, and a blank in the path of results."""
    folder = tmp_path_factory.mktemp("own")
    numbers = [f"{name}={value}" for name, value in NUMBERS.items()]
    lines = ["inherit=mini", *numbers, 'finetune_seeds="5 6 7"', "nocaps_path=nocaps"]
    path = folder / "own.sh"
    path.write_text("\n".join([*lines, f'result_path="{folder}/a blank/results"', ""]))
    return path


@pytest.fixture(scope="module")
def calls(profile, tmp_path_factory) -> dict[Path, list[list[str]]]:
    """Those of every wrapper, when decoding.sh's captions are there."""
    decoded = Path(read_profile(str(profile))["result_path"]) / f"val2014-{NUMBERS['report_images']}-seed42"
    for name in ("greedy", "adhh-top_k=2-threshold=0.95-12345678"):
        (decoded / name).mkdir(parents=True)
        (decoded / name / "captions_eval_results.json").touch()
    folder, found = tmp_path_factory.mktemp("calls"), {}
    for number, wrapper in enumerate(OF_PROFILES):
        (folder / str(number)).mkdir()
        found[wrapper] = calls_of(wrapper, str(profile), folder / str(number))
    return found


@pytest.mark.parametrize(("flags", "expected"), NAMED)
def test_flags_name_the_draw_as_argparse_reads_them(flags, expected):
    assert drawn("val2014", "500", "42", *flags) == expected
    parser = argparse.ArgumentParser()
    for name in ("--split", "--limit", "--seed", *(flag for flag in flags if flag in OTHERS)):
        parser.add_argument(name)
    assert draw_of(parser.parse_args(["--split", "val2014", "--limit", "500", "--seed", "42", *flags])) == expected


def test_a_draw_of_all_images():
    assert drawn("val2014", "", "42") == "val2014-all-seed42"
    assert drawn("val2014", "", "42", "--limit", "3") == "val2014-3-seed42"


def test_every_call_that_draws_images_writes_into_the_folder_of_its_draw(calls):
    drawing = []
    for call in chain(*calls.values()):
        args = parsed(call)
        if expected := draw_of(args):
            drawing.append(call[0])
            assert expected in names_in(args.out), f"{call[0]} draws {expected} into {args.out}"
    assert len(drawing) >= 14 and {*drawing} == {"caption", "evaluate"}


@pytest.mark.parametrize("dataset", ["coco", "nocaps"])
def test_flags_at_the_end_name_the_folder(dataset, calls, profile, tmp_path, monkeypatch):
    monkeypatch.setenv("DATASET", dataset)
    moved = []
    for number, (wrapper, own) in enumerate(calls.items()):
        if not any(draw_of(parsed(call)) for call in own):
            continue
        given = ["--limit=61", "--see", "7"]
        if wrapper.name == "attribute.sh":
            given[0] = "caption:--limit=61"
        if wrapper.name == "targeted_finetune.sh":  # its seeds are those of the training
            given = given[:1]
        expected = "61-seed42" if len(given) == 1 else "61-seed7"
        (tmp_path / str(number)).mkdir()
        for call in calls_of(wrapper, str(profile), tmp_path / str(number), *given):
            args = parsed(call)
            if draw := draw_of(args):
                assert draw.endswith(expected), wrapper.name
                assert draw in names_in(args.out), f"{wrapper.name} draws {draw} into {args.out}"
                moved.append(wrapper.name)
    assert len(moved) == 21 and moved.count("heads_of_parts.sh") == moved.count("all.sh") == 2


def test_attribution_follows_the_captions_of_another_draw(profile, tmp_path):
    wrapper = ROOT / "bash_scripts/attribute.sh"
    caption, score, attribute = map(
        parsed, calls_of(wrapper, str(profile), tmp_path, "caption:--limit", "9", "--limit=5")
    )
    assert caption.limit == 9 and attribute.limit == 5
    assert score.captions.parent == caption.out == attribute.captions.parent == attribute.out.parent


def test_what_a_wrapper_reads_of_results_is_where_another_writes(calls, profile):
    """No path is cut at its blank, either."""
    results = read_profile(str(profile))["result_path"]
    written, read = {Path(results)}, set()
    for call in chain(*calls.values()):
        args = parsed(call)
        written |= {getattr(args, "out", None)} - {None}
        listed = [each for value in vars(args).values() for each in (value if isinstance(value, list) else [value])]
        paths = {each for each in listed if isinstance(each, Path) and "blank" in str(each)}
        paths |= {Path(word.split("=", 1)[1]) for word in listed if isinstance(word, str) and "=/" in word}
        specs = [parse(text) for text in getattr(args, "methods", [])]
        paths |= {Path(value) for spec in specs for name, value in spec.fields.items() if name in ("heads", "path")}
        assert all(str(path).startswith(results) for path in paths if "blank" in str(path)), f"{call[0]}: {paths}"
        read |= {path for path in paths if "blank" in str(path)} - {getattr(args, "out", None)}
    assert len(read) >= 12
    for path in read:
        assert written & {path, *path.parents} - {Path(results)} or path == Path(results), f"nothing writes {path}"


OWN = [
    ("bash_scripts/targeted_finetune.sh", ["--steps", "3", "--seed", "7"], "--seed", "change finetune_seeds"),
    ("bash_scripts/targeted_finetune.sh", ["--random=7"], "--random-heads", "change finetune_seeds"),
    ("bash_scripts/targeted_finetune.sh", ["--out=x"], "--out", "change finetune_seeds"),
    (
        "bash_scripts/analysis/heads_of_parts.sh",
        ["--limit=3", "--without", "car"],
        "--without-object",
        "change part",
    ),
    ("bash_scripts/analysis/heads_of_parts.sh", ["--summary=x.json"], "--summary", "change part_objects"),
    ("bash_scripts/analysis/heads_of_parts.sh", ["evaluate:--summary=x.json"], "--summary", "change part_objects"),
    ("bash_scripts/targeted_finetune.sh", ["finetune:--seed", "7"], "--seed", "change finetune_seeds"),
    ("bash_scripts/analysis/attention_reweight_txt.sh", ["--out=x"], "--out", "change result_path"),
    ("bash_scripts/report.sh", ["--out=x"], "--out", "change result_path"),
    ("bash_scripts/decoding.sh", ["--profile", "mini_full"], "--profile", "give PROFILE=... in front"),
    ("bash_scripts/analysis/all.sh", ["--out", "x"], "--out", "change result_path"),
    ("baselines/bash_scripts/eval_ours_adhh.sh", ["--dataset", "nocaps"], "--dataset", "give DATASET=nocaps"),
]


@pytest.mark.parametrize(("wrapper", "given", "flag", "advice"), OWN)
def test_flags_by_which_calls_of_a_wrapper_differ_are_refused(wrapper, given, flag, advice):
    environment = {**os.environ, "PYTHON": "false", "PROFILE": "mini"}
    command = ["sh", ROOT / wrapper, *given]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {flag}: the wrapper sets it; {advice}") and done.stderr.count("\n") == 1


def test_other_flags_reach_the_training_with_every_seed(profile, tmp_path):
    given = ["--steps", "3", "--save-every=4", "--objective", "maximize_img", "--data", "a --seed"]
    calls = calls_of(ROOT / "bash_scripts/targeted_finetune.sh", str(profile), tmp_path, *given)
    trainings = [parsed(call) for call in calls[:-1]]
    assert len({args.out for args in trainings}) == 6
    assert sorted({args.seed for args in trainings}) == [5, 6, 7] and {args.steps for args in trainings} == {3}
    assert {args.data for args in trainings} == {Path("a --seed")}


def test_tuned_models_keep_the_order_of_their_seeds(calls, profile, tmp_path):
    def tuned_in(call: list[str]) -> list[tuple[str, str | None]]:
        specs = [parse(text) for text in parsed(call).methods]
        return [(spec.fields["path"], spec.fields.get("group")) for spec in specs if spec.kind == "tfhh"]

    folder = Path(read_profile(str(profile))["result_path"]) / "targeted_finetune"
    tuned = [(f"{folder}/heads_{seed}/model", None) for seed in (5, 6, 7)]
    wrapper = ROOT / "baselines/bash_scripts/eval_ours_tfhh.sh"
    assert tuned_in(calls[wrapper][0]) == tuned
    [call] = calls_of(wrapper, str(profile), tmp_path, "--methods", "tfhh:path=mine")
    assert tuned_in(call) == [("mine", None)]
    random = [(f"{folder}/random_{seed}/model", "random_heads_tuned") for seed in (5, 6, 7)]
    assert tuned_in(calls[ROOT / "bash_scripts/targeted_finetune.sh"][-1]) == tuned + random


def test_measure_copies_from_where_the_scripts_write(tmp_path, monkeypatch):
    copies = tmp_path / "cp"
    copies.write_text(f'#!/bin/sh\necho "$1" >> "{tmp_path}/copied"\n')
    copies.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    own = calls_of(ROOT / "bash_scripts/mini/measure.sh", "mini", tmp_path)
    written = {str(vars(parsed(call)).get("out")) for call in own}
    written |= {os.path.dirname(out) for out in written if out.endswith(".json")}
    copied = (tmp_path / "copied").read_text().splitlines()
    assert len(copied) == 40
    for path in copied:
        assert os.path.dirname(path) in written, f"nothing writes {path}"
