"""Every setting of a profile reaches the wrappers, nothing of the environment does, and wrong numbers are named."""

import json
import re
from pathlib import Path

import pytest

from llava_hh.command_line.profiles import (
    DEFAULTS,
    EXPECTED,
    TOP_KS,
    profile_names,
    read_profile,
    short_of,
    training_checkpoints,
    wrong_numbers,
)
from tests.support.repository import ROOT
from tests.support.wrappers import OF_PROFILES, called, calls_of, parsed

PROFILES = profile_names()
SWITCHES = {  # settings that are set or empty, and what they turn into
    "removal_adhh": "adhh:top_k=",
    "paper_values": "paper_values=True",
    "finetune_untie": "untie=True",
    "finetune_checkpointing": "gradient_checkpointing=True",
}
FRACTIONS = {"threshold": "0.31", "part_threshold": "0.32"}
MADE = ("head_list",)  # of other settings


def marked_profile(folder: Path) -> tuple[Path, dict[str, str]]:
    """A profile in which every setting has a value of its own, and these."""
    values = {}
    for number, name in enumerate(name for name in read_profile("mini") if name not in MADE):
        if name in SWITCHES:
            values[name] = "yes"
        elif name in EXPECTED:
            values[name] = FRACTIONS.get(name, str(7000 + number))
        else:
            values[name] = f"{name.replace('_', '-')}-here"
    values["list_length"] = "9999"  # more than any number of heads
    values["training_checkpoints"] = "step-1 step-2"
    path = folder / "marked.sh"
    path.write_text("\n".join([*(f'{name}="{value}"' for name, value in values.items()), ""]))
    return path, values


def all_calls(profile: str, folder: Path) -> dict[str, list[list[str]]]:
    """The calls of every wrapper for a profile."""
    found = {}
    for number, wrapper in enumerate(OF_PROFILES):
        (folder / str(number)).mkdir(parents=True)
        found[str(wrapper.relative_to(ROOT))] = calls_of(wrapper, profile, folder / str(number))
    return found


@pytest.fixture(scope="module")
def marked(tmp_path_factory) -> tuple[dict[str, str], dict[str, list[list[str]]]]:
    folder = tmp_path_factory.mktemp("marked")
    profile, values = marked_profile(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DATASET", raising=False)
        calls = all_calls(str(profile), folder / "coco")
        patch.setenv("DATASET", "nocaps")
        for wrapper in (ROOT / "baselines/bash_scripts").glob("eval_*.sh"):
            (folder / wrapper.stem).mkdir()
            calls[str(wrapper.relative_to(ROOT))] += calls_of(wrapper, str(profile), folder / wrapper.stem)
    values["training_checkpoints"] = "training-steps-here/step-1 training-steps-here/step-2"  # as they are passed
    return values, calls


def said_in(call: list[str]) -> str:
    """The words of a call, and what its verb makes of them and of the profile."""
    values = vars(parsed(call)).items()
    # a function's text has an address, in which any number may stand
    listed = {name: value if isinstance(value, list) else [value] for name, value in values if not callable(value)}
    return " ".join([*call, *(f"{name}={' '.join(map(str, own))}" for name, own in listed.items())])


def test_every_setting_reaches_a_wrapper(marked):
    values, calls = marked
    said = [said_in(call) for own in calls.values() for call in own]
    for name, value in values.items():
        assert any(SWITCHES.get(name, value) in line for line in said), f"no wrapper passes {name}"


def test_settings_that_are_empty_are_not_passed(marked, tmp_path):
    (tmp_path / "own.sh").write_text(f"inherit=mini\n{''.join(f'{name}={chr(10)}' for name in SWITCHES)}")
    calls = all_calls(str(tmp_path / "own.sh"), tmp_path / "calls")
    for name, said in SWITCHES.items():
        wrappers = {wrapper for wrapper, own in marked[1].items() if any(said in said_in(call) for call in own)}
        if name == "removal_adhh":
            wrappers = {"newer_models/decoding.sh"}
        for wrapper in wrappers:
            assert not any(said in said_in(call) for call in calls[wrapper]), wrapper


def test_every_call_that_asks_about_images_gets_question_length_and_batch_size(marked):
    """A verb that has the flag is given it from the profile, never by a number in the wrapper or by a default."""
    values, calls = marked
    sizes = {int(values[name]) for name in ("batch_size", "baseline_batch_size")}
    asking = 0
    for wrapper, own in calls.items():
        for call in own:
            args = vars(parsed(call))
            if "max_new_tokens" not in args:
                continue  # it generates nothing from images
            asking += 1
            if call[0] != "explain":  # of one image
                assert args["batch_size"] in sizes, f"{wrapper}: {call[0]} drops the batch size"
            if args.get("task") == "pope":  # it has questions and a length of its own
                assert args["questions"] == Path(values["pope_questions"]) and args["max_new_tokens"] is None
                continue
            assert args["prompt"] == values["question"], f"{wrapper}: {call[0]} drops the question"
            expected = int(values["max_new_tokens"])
            assert args["max_new_tokens"] == expected, f"{wrapper}: {call[0]} drops the length"
    assert asking >= 14


def test_nothing_of_the_environment_reaches_a_wrapper(marked, tmp_path, monkeypatch):
    """Also for settings that a profile leaves out, and for what wrappers make of settings and flags."""
    profile = tmp_path / "short.sh"
    kept = {name: value for name, value in marked[0].items() if name not in ("question", "published_heads")}
    profile.write_text("".join(f'{name}="{value}"\n' for name, value in kept.items()))
    made = ["attributed", "head_list", "choice", "released", "captions", "methods", "random_heads", "last_first"]
    made += ["with_word", "with_verb", "given_value", "share_found"]
    for name in [*marked[0], *made]:
        monkeypatch.setenv(name, "leak")
    for wrapper, own in all_calls(str(profile), tmp_path / "calls").items():
        assert not any("leak" in said_in(call) for call in own), wrapper
    assert read_profile(str(profile))["question"] == ""


def documented() -> dict[str, list[str]]:
    """The rows of docs/models_and_data.md by name: type, default, meaning, wrappers."""
    text = (ROOT / "docs/models_and_data.md").read_text().replace("\\|", "or")
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) == len(dict(rows))
    return {name: [cell.strip() for cell in rest.split("|")] for name, rest in rows}


def test_the_table_of_settings_has_names_types_and_defaults():
    lines = [line.partition("=") for line in (ROOT / DEFAULTS).read_text().splitlines() if not line.startswith("#")]
    defaults = {name: value for name, _, value in lines if name}
    table = documented()
    assert {name: row[1].strip("`") for name, row in table.items()} == defaults
    types = {  # by the type in the table: a value that is right, if it is a number
        "count": "1",
        "count, or 0": "0",
        "seed": "0",
        "seeds": "3 4",
        "fraction": "0.5",
        "number": "0.5",
        **dict.fromkeys(("folder", "folders", "file", "text", "words", "yes, or empty")),
    }
    for name, (kind, *_) in table.items():
        assert (types[kind] is not None) == (name in EXPECTED), name
        assert name not in EXPECTED or EXPECTED[name][1](types[kind]), name
        assert (kind == "yes, or empty") == (name in SWITCHES)


def test_the_table_of_settings_says_who_reads_them(marked):
    values, calls = marked
    draw = f"train2014-{values['attribution_images']}-seed{values['draw_seed']}"  # in the path of a head list
    said = {
        wrapper.replace("bash_scripts/", "").removesuffix(".sh"): " ".join(map(said_in, own)).replace(draw, "")
        for wrapper, own in calls.items()
        if not wrapper.endswith("analysis/all.sh")
    }
    for name, (*_, readers) in documented().items():
        found = {wrapper for wrapper, text in said.items() if SWITCHES.get(name, values[name]) in text}
        if name == "attribution_images":
            found = {"attribute"}  # which captions so many; for others it is part of that path
        if name == "removal_adhh":
            found = {wrapper for wrapper in found if wrapper == "newer_models/decoding"}  # others always have AD-HH
        if name == "pope_questions":
            found = {"pope"}  # the verb takes them for --task pope alone
        assert readers == "most" if len(found) > 8 else {*readers.split(", ")} == found, f"{name}: {found}"


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_set_right_numbers(profile):
    assert wrong_numbers(read_profile(profile)) == []


def test_the_defaults_are_right_numbers():
    lines = [
        line.partition("=") for line in (ROOT / DEFAULTS).read_text().splitlines() if "=" in line and line[0] != "#"
    ]
    assert {name for name, _, _ in lines} == read_profile("mini").keys() - {*MADE}
    assert wrong_numbers({name: value for name, _, value in lines}) == []


@pytest.mark.parametrize("wrapper", OF_PROFILES, ids=lambda path: path.name)
def test_no_wrapper_overrides_a_setting(wrapper):
    text = wrapper.read_text()
    assigned = set(re.findall(r"^\s*(\w+)=", text, re.MULTILINE)) | set(re.findall(r"\bfor (\w+) in", text))
    assert not assigned & read_profile("mini").keys()


@pytest.mark.parametrize("profile", [*PROFILES, "own"])
def test_lists_are_as_long_as_any_number_of_heads_that_is_taken(profile, tmp_path):
    name = profile
    if profile == "own":
        name = str(tmp_path / "own.sh")
        Path(name).write_text("inherit=mini\npart_top_k=77\n")
    settings = read_profile(name)
    numbers = [int(value) for key, value in settings.items() if key.endswith("top_k")]
    assert len(numbers) == len(TOP_KS)
    lengths = []
    for wrapper in ("bash_scripts/attribute.sh", "bash_scripts/analysis/heads_of_parts.sh"):
        (tmp_path / Path(wrapper).stem).mkdir()
        for call in calls_of(ROOT / wrapper, name, tmp_path / Path(wrapper).stem):
            lengths += [parsed(call).list_length] if called(call) == "attribute" else []
    assert lengths == 3 * [max(30, *numbers)] == 3 * [int(settings["list_length"])]


def test_checkpoints_of_a_tuning_stand_in_their_folder(tmp_path):
    names = {"training_steps": "a b/steps", "training_checkpoints": "step-1 step-2"}
    assert training_checkpoints(names) == ["a b/steps/step-1", "a b/steps/step-2"]
    assert training_checkpoints(names | {"training_steps": ""}) == ["step-1", "step-2"]
    assert training_checkpoints(names | {"training_checkpoints": ""}) == []
    for folder in ("a b/steps", ""):
        own = tmp_path / "own.sh"
        own.write_text(f'inherit=mini\ntraining_steps="{folder}"\ntraining_checkpoints="step-1 step-2"\n')
        (tmp_path / "calls").unlink(missing_ok=True)
        [call] = calls_of(ROOT / "bash_scripts/analysis/js_div_in_training.sh", str(own), tmp_path)
        assert [*map(str, parsed(call).checkpoints)] == training_checkpoints(read_profile(str(own)))


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in ("top_k", "bias_top_k", "batch_size") for value in ("", "0", "-1", "2.5", "1e3", "five")]
    + [(name, value) for name in ("threshold", "part_threshold") for value in ("", "-0.1", "1.01", "nan", "inf", "x")]
    + [("attribution_captions", "0"), ("random_draws", "-1"), ("reweight_draws", ""), ("finetune_seeds", "1 x")]
    + [("finetune_seeds", " "), ("finetune_learning_rate", "0"), ("finetune_learning_rate", "nan")]
    + [("finetune_attention_coeff", "-1"), ("finetune_attention_coeff", "inf")],
)
def test_a_wrong_number_is_named(name, value):
    settings = read_profile("mini")
    assert wrong_numbers(settings) == []
    [text] = wrong_numbers(settings | {name: value})
    assert text.startswith(f"{name} is {value!r}, expected ")


def test_a_number_that_is_missing_is_named():
    assert len(wrong_numbers({})) == len(EXPECTED) - 1  # attribution_captions may be missing


def test_numbers_beyond_a_list_are_named():
    settings = dict.fromkeys(TOP_KS, "5") | {"removal_top_k": "6", "bias_top_k": "4"}
    found = short_of(settings, {"hal_heads": 5, "non_hal_heads": 3}, TOP_KS)
    assert found == [
        "non_hal_heads has 3 heads, the profile's bias_top_k is 4",
        "non_hal_heads has 3 heads, the profile's inheritance_top_k is 5",
        "hal_heads has 5 heads, the profile's removal_top_k is 6",
    ]
    assert short_of(settings, {"hal_heads": 5, "non_hal_heads": 3}, ["top_k"]) == []


def test_published_lists_are_as_long_as_the_wrappers_that_take_them_need():
    for profile in PROFILES:
        settings = read_profile(profile)
        if settings["published_heads"]:
            heads = json.loads((ROOT / settings["published_heads"]).read_text())["hal_heads"]
            assert int(settings["removal_top_k"]) <= len(heads)


def test_every_folder_of_a_profile_stands_in_the_list_of_checkpoints():
    listed = (ROOT / "checkpoints" / "README.md").read_text(encoding="utf-8")
    for profile in (ROOT / "bash_scripts" / "profiles").glob("*.sh"):
        for name in re.findall(r"checkpoints/([\w.-]+)", profile.read_text(encoding="utf-8")):
            assert f"`{name}/" in listed, f"{profile.name}: checkpoints/{name}"
