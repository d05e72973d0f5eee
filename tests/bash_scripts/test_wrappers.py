"""What the wrappers of comparisons ask for: methods that there are, images, head lists, folders."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from llava_hh.command_line.profiles import read_profile
from llava_hh.decoding.grammar import parse
from llava_hh.decoding.reading import read_methods
from llava_hh.decoding.registry import ONE_OF_EACH
from llava_hh.heads import check_heads, load_heads
from tests.support.repository import ROOT
from tests.support.wrappers import called, calls_in, calls_of, make_stub, parsed, run_wrapper

NEWER = ["llama-3.2-11b", "chameleon-7b", "chameleon-30b", "qwen2.5-vl-7b", "qwen3-vl-8b", "internvl3-8b"]
NEWER += ["llava-onevision-7b"]
COMPARING = [
    "bash_scripts/choose_adhh.sh",
    "bash_scripts/decoding.sh",
    "bash_scripts/pope.sh",
    "bash_scripts/reference_loss.sh",
    "bash_scripts/targeted_finetune.sh",
    "bash_scripts/analysis/attention_reweight_img.sh",
    "bash_scripts/analysis/attention_reweight_txt.sh",
    "bash_scripts/analysis/heads_of_answers.sh",
    "bash_scripts/analysis/heads_of_parts.sh",
    "baselines/bash_scripts/eval_baselines.sh",
    "baselines/bash_scripts/eval_methods.sh",
    "baselines/bash_scripts/pope_methods.sh",
    "baselines/bash_scripts/eval_ours_adhh.sh",
    "baselines/bash_scripts/eval_ours_tfhh.sh",
    "newer_models/decoding.sh",
]


@pytest.fixture
def there(monkeypatch) -> None:
    """Fine-tuned checkpoints, which are looked at when methods are read, are not there yet."""
    monkeypatch.setattr("llava_hh.decoding.reading.stored_tensors", lambda _: [])


@pytest.mark.parametrize("profile", ["mini", "llama-3.2-11b"])
@pytest.mark.parametrize("wrapper", COMPARING)
def test_wrappers_name_methods_that_there_are(wrapper, profile, there, tmp_path):
    comparisons = [parsed(call) for call in calls_of(ROOT / wrapper, profile, tmp_path) if called(call) == "evaluate"]
    assert comparisons
    for args in comparisons:
        specs = read_methods(args.methods, task=args.task)
        assert args.methods and len(specs) == len(ONE_OF_EACH if "all" in args.methods else args.methods)


@pytest.mark.parametrize("name", ["eval_baselines", "eval_ours_adhh", "eval_ours_tfhh"])
def test_wrappers_of_baselines_share_a_folder(name, tmp_path):
    [call] = calls_of(ROOT / f"baselines/bash_scripts/{name}.sh", "mini", tmp_path)
    args = parsed(call)
    kinds = [parse(text).kind for text in args.methods]
    assert ("tfhh" in kinds) == (name == "eval_ours_tfhh")
    tuned = [text for text in args.methods if text.startswith("tfhh")]
    assert all('tfhh:path="results/mini/quick/targeted_finetune/heads_' in text for text in tuned)
    assert args.out == Path("results/mini/quick/baselines/val2014-60-seed42") and args.limit == 60
    assert (
        args.summary
        == {
            "eval_baselines": None,
            "eval_ours_adhh": args.out / "summary_adhh.json",
            "eval_ours_tfhh": args.out / "summary_tfhh.json",
        }[name]
    )


def test_slow_baselines_have_fewer_images(tmp_path):
    [call] = calls_of(ROOT / "baselines/bash_scripts/eval_baselines.sh", "mini", tmp_path)
    found = {spec.kind: spec.fields for spec in map(parse, parsed(call).methods)}
    assert list(found) == ["vcd_paper", "dola_repo", "pai", "opera", "halc_clean", "adhh"]
    assert {kind for kind, fields in found.items() if fields.get("limit") == 30} == {"opera", "halc_clean"}
    assert (found["halc_clean"]["detector"], found["halc_clean"]["scorer"]) == ("mini", "mini")
    assert found["adhh"] == {"top_k": 2, "threshold": 0.95}


@pytest.mark.parametrize("name", ["eval_methods", "pope_methods"])
def test_vti_takes_the_vectors_that_were_made(name, tmp_path):
    profile, results = tmp_path / "own.sh", tmp_path / "a blank"
    profile.write_text(f'inherit=mini\nresult_path="{results}"\n')
    [made] = calls_of(ROOT / "baselines/bash_scripts/prepare_vti.sh", str(profile), tmp_path)
    vectors = parsed(made).out
    (tmp_path / "calls").unlink()
    wrapper = ROOT / f"baselines/bash_scripts/{name}.sh"
    [call] = calls_of(wrapper, str(profile), tmp_path)
    assert not [text for text in parsed(call).methods if text.startswith("vti")]
    vectors.parent.mkdir(parents=True)
    vectors.touch()
    [_, call] = calls_of(wrapper, str(profile), tmp_path)
    args = parsed(call)
    (spec,) = [spec for spec in read_methods(args.methods, task=args.task) if spec.kind == "vti"]
    assert Path(spec.fields["vectors"]) == vectors and not spec.is_one_of_all


@pytest.mark.parametrize("name", ["eval_baselines", "eval_ours_adhh", "eval_ours_tfhh"])
def test_wrappers_take_nocaps(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DATASET", "nocaps")
    [call] = calls_of(ROOT / f"baselines/bash_scripts/{name}.sh", "llava-v1.5-7b", tmp_path)
    args = parsed(call)
    assert (args.dataset, args.split, args.limit) == ("nocaps", "out-domain", 500)
    assert (args.image_folder, args.annotations) == (
        Path("dataset/nocaps/images/val"),
        Path("dataset/nocaps/annotations"),
    )
    assert args.out == Path("results/coco/llava-v1.5-7b/baselines/nocaps_out-domain-500-seed42")


@pytest.mark.parametrize(
    ("dataset", "message"), [("nocaps", "PROFILE=mini has no nocaps"), ("flickr", "no such data set")]
)
def test_wrappers_refuse_what_is_not_there(dataset, message, tmp_path, monkeypatch):
    monkeypatch.setenv("DATASET", dataset)
    stub, log = make_stub(tmp_path / "python", tmp_path / "calls"), tmp_path / "calls"
    done = run_wrapper(ROOT / "baselines/bash_scripts/eval_baselines.sh", "mini", stub)
    assert done.returncode == 2 and f"error: DATASET={dataset}: {message}" in done.stderr and not log.exists()


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        ("js_div_in_training", "has no checkpoints of a tuning (its training_checkpoints is empty)"),
        ("attention_inheritance", "has no base language model (its base_model is empty)"),
    ],
)
def test_figures_that_a_profile_cannot_have(wrapper, message, tmp_path):
    stub, log = make_stub(tmp_path / "python", tmp_path / "calls"), tmp_path / "calls"
    done = run_wrapper(ROOT / f"bash_scripts/analysis/{wrapper}.sh", "chameleon-7b", stub)
    assert done.returncode == 2 and message in done.stderr and not log.exists()


def test_pope(tmp_path):
    [call] = calls_of(ROOT / "bash_scripts/pope.sh", "mini", tmp_path)
    args = parsed(call)
    assert (args.task, args.limit, args.questions, args.suffix) == ("pope", 60, None, "llava")
    assert args.methods == ["adhh:top_k=2,threshold=0.95"]
    (tmp_path / "llava").mkdir()
    [call] = calls_of(ROOT / "bash_scripts/pope.sh", "llava-v1.5-7b", tmp_path / "llava")
    assert parsed(call).limit == 500


def test_decoding_draws_random_heads_of_both_kinds(tmp_path):
    [call] = calls_of(ROOT / "bash_scripts/decoding.sh", "mini", tmp_path)
    args = parsed(call)
    specs = [parse(text) for text in args.methods]
    assert [(spec.kind, spec.fields.get("match")) for spec in specs] == [
        ("adhh", None),
        ("random", None),
        ("random", "rate"),
    ]
    head_list = Path(read_profile("mini")["head_list"])
    assert args.heads == head_list and args.choosing_captions == head_list.parents[1] / "captions_eval_results.json"
    assert args.choosing_images == Path("dataset/mini/train2014")


def test_reproduce_decodes_with_the_setting_that_was_chosen(tmp_path):
    calls = [
        parsed(call) for call in calls_of(ROOT / "bash_scripts/reproduce.sh", "mini", tmp_path) if call[0] == "evaluate"
    ]
    choosing, decoding = calls[:2]
    assert choosing.choose and (choosing.split, choosing.limit, choosing.seed) == ("train2014", 150, 1)
    assert len(choosing.methods) == 24
    adhh, *random = [parse(text) for text in decoding.methods]
    assert adhh.fields == {"choice": str(choosing.out / "choice.json")}
    assert [spec.fields.get("match") for spec in random] == [None, "rate"]


def test_reference_loss_shows_the_captions_of_one_head_list(tmp_path):
    decoded = tmp_path / "a blank" / "val2014-60-seed42"
    profile = tmp_path / "own.sh"
    profile.write_text(f'inherit=mini\nresult_path="{decoded.parent}"\n')
    files = [decoded / name / "captions_eval_results.json" for name in ("greedy", "adhh-top_k=2-threshold=0.95-1a")]
    expected = [[], [], [f"greedy={files[0]}", f"adhh={files[1]}"], []]
    other = decoded / "adhh-top_k=2-threshold=0.95-2b" / "captions_eval_results.json"  # another head list's
    for number, file in enumerate([None, *files, other]):
        if file:
            file.parent.mkdir(parents=True)
            file.touch()
        (tmp_path / str(number)).mkdir()
        [call] = calls_of(ROOT / "bash_scripts/reference_loss.sh", str(profile), tmp_path / str(number))
        assert sorted(parsed(call).captions) == sorted(expected[number])


@pytest.mark.parametrize("span", ["after_image", "image"])
def test_each_factor_has_random_heads(span, tmp_path):
    name = {"after_image": "txt", "image": "img"}[span]
    captions, figure = calls_of(ROOT / f"bash_scripts/analysis/attention_reweight_{name}.sh", "mini", tmp_path)
    args, drawn = parsed(captions), parsed(figure)
    specs = [parse(text) for text in args.methods]
    assert [spec.kind for spec in specs] == ["scale", "random"] * 5
    for scale, random in zip(specs[::2], specs[1::2], strict=True):
        assert (scale.fields["span"], scale.fields["top_k"]) == (span, 5)
        assert parse(random.fields["of"]) == scale and random.fields["draws"] == 2
    assert drawn.summary == args.summary == args.out / f"summary_{span}.json" and drawn.out == args.out
    assert drawn.span == span


def test_objects_of_parts_may_have_two_words(tmp_path):
    profile = tmp_path / "own.sh"
    profile.write_text('inherit=mini\npart_objects=" dining table ,car,"\n')
    calls = calls_of(ROOT / "bash_scripts/analysis/heads_of_parts.sh", str(profile), tmp_path)
    assert parsed(calls[0]).with_object == parsed(calls[1]).without_object == ["dining table", "car"]


@pytest.mark.parametrize("wrapper", ["bash_scripts/pope.sh", "baselines/bash_scripts/eval_ours_adhh.sh"])
def test_a_wrapper_works_through_a_link(wrapper, tmp_path):
    (tmp_path / "links").mkdir()
    link = tmp_path / "links/mine.sh"
    link.symlink_to(ROOT / wrapper)
    (tmp_path / "over.sh").symlink_to("links/mine.sh")
    [direct] = calls_of(ROOT / wrapper, "mini", tmp_path)
    assert calls_of(tmp_path / "over.sh", "mini", tmp_path) == [direct, direct]  # both are in the log


def test_a_photo_is_seen_from_where_one_is(tmp_path, monkeypatch):
    """Through a link, from a folder with a blank in its name; other paths, and absolute ones, stay as they are."""
    folder, link = tmp_path / "my photos", tmp_path / "explain.sh"
    folder.mkdir()
    link.symlink_to(ROOT / "bash_scripts/explain.sh")
    stub, log = make_stub(tmp_path / "python", tmp_path / "calls"), tmp_path / "calls"
    environment = {**os.environ, "PYTHON": str(stub)}
    environment.pop("PROFILE", None)
    for given in (["a b.jpg", "--out", "o"], [str(folder / "a b.jpg"), "--out", "o"]):
        subprocess.run(["sh", link, *given], cwd=folder, env=environment, check=True)
    command = ["explain", "--profile", "mini", str(folder / "a b.jpg"), "--out", "o"]
    assert calls_in(log) == [command, command]
    args = parsed(command)
    assert (args.top_k, args.threshold, args.model) == (2, 0.95, Path("checkpoints/mini/model"))


def test_variables_around_are_no_settings(tmp_path, monkeypatch):
    wrapper = ROOT / "bash_scripts/decoding.sh"
    [alone] = calls_of(wrapper, "mini", tmp_path)
    for name, value in {"question": "what?", "published_heads": "x", "top_k": "7", "limit": "3", "out": "o"}.items():
        monkeypatch.setenv(name, value)
    assert calls_of(wrapper, "mini", tmp_path) == [alone, alone]


def test_parts_have_both_lists(tmp_path):
    calls = calls_of(ROOT / "bash_scripts/analysis/heads_of_parts.sh", "mini", tmp_path)
    lists = [parsed(call).out / "attribution_result.json" for call in calls[:2]]
    assert [parsed(call).with_object for call in calls[:2]] == [["car", "bench"], None]
    assert parsed(calls[2]).lists == lists
    for args, own, other in zip(map(parsed, calls[3:]), lists, lists[::-1], strict=True):
        first, second, random = [parse(text) for text in args.methods]
        assert args.heads == own and "heads" not in first.fields and Path(second.fields["heads"]) == other
        del first.fields["label"]
        assert parse(random.fields["of"]) == first


@pytest.mark.parametrize("profile", NEWER)
@pytest.mark.parametrize("wrapper", ["newer_models/decoding.sh", "bash_scripts/attribute.sh"])
def test_profiles_of_newer_models(profile, wrapper, tmp_path):
    asked = set()
    for call in calls_of(ROOT / wrapper, profile, tmp_path):
        args = parsed(call)
        asked.add(getattr(args, "prompt", None))
        if called(call) == "evaluate":
            specs = {spec.kind: spec.fields for spec in map(parse, args.methods)}
            assert (specs["removal"]["top_k"], args.limit) == (10, 500)
            assert ("adhh" not in specs) == profile.startswith("llama")
            published = profile.startswith(("llama", "chameleon"))
            assert (args.heads.parts[:2] == ("checkpoints", "heads")) == published
            if published:
                size = json.loads((ROOT / args.heads).read_text())
                check_heads(load_heads(ROOT / args.heads, top_k=10), size["n_layers"], size["n_heads"])
    order = "<image>" if profile.startswith("chameleon") else ""
    assert f"Please describe this image in detail.{order}" in asked


def test_released_removal_is_a_method(tmp_path):
    given = ["--limit", "3", "--released", "--seed=7"]
    [call] = calls_of(ROOT / "newer_models/decoding.sh", "llama-3.2-11b", tmp_path, *given)
    args = parsed(call)
    assert [parse(text).kind for text in args.methods] == ["removal", "removal_released", "random"]
    assert (args.limit, args.seed) == (3, 7) and args.out.name == "val2014-3-seed7"
