"""Every setting of a profile reaches the wrappers, nothing of the environment does, and wrong numbers are named."""

import importlib
import json
import re
from pathlib import Path

import pytest
from test_repository import ROOT, WRAPPERS, calls_of

from llava_hh.profiles import EXPECTED, TOP_KS, read_profile, short_of, wrong_numbers

PROFILES = sorted(path.stem for path in (ROOT / "bash_scripts/profiles").glob("*.sh"))
OF_PROFILES = [path for path in WRAPPERS if "mini" not in path.parts and path.name not in ("reproduce.sh", "doctor.sh")]
SWITCHES = {  # settings that are set or empty, and the flag that they turn into
    "removal_adhh": "--threshold 0.31",
    "paper_values": "--paper-values",
    "finetune_untie": "--untie",
    "finetune_checkpointing": "--gradient-checkpointing",
}
HELD = ("training_steps", "head_list")  # used by other settings of the same profile, or made of them


def marked_profile(folder: Path) -> tuple[Path, dict[str, str]]:
    """A profile in which every setting has a value of its own, and these."""
    values = {}
    for number, name in enumerate(read_profile("mini")):
        if name in SWITCHES:
            values[name] = "yes"
        elif name in ("threshold", "part_threshold"):
            values[name] = {"threshold": "0.31", "part_threshold": "0.32"}[name]
        elif name in EXPECTED:
            values[name] = str(7000 + number)
        else:
            values[name] = f"{name.replace('_', '-')}-here"
    values["training_checkpoints"] = "step-1 step-2"
    lines = [f'{name}="{value}"' for name, value in values.items()]
    path = folder / "marked.sh"
    path.write_text("\n".join([". bash_scripts/python.sh", *lines, ""]))
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
        nocaps = calls_of(ROOT / "baselines/bash_scripts/eval_baselines.sh", str(profile), folder)
    return values, calls | {"nocaps": nocaps}


def test_every_setting_reaches_a_wrapper(marked):
    values, calls = marked
    said = [" ".join(call) for own in calls.values() for call in own]
    for name, value in values.items():
        if name not in HELD:
            assert any(SWITCHES.get(name, value) in line for line in said), f"no wrapper passes {name}"


def test_every_call_that_asks_about_images_gets_question_length_and_batch_size(marked):
    """A script that has the flag is given it from the profile, never by a number in the wrapper or by a default."""
    values, calls = marked
    sizes = {int(values[name]) for name in ("batch_size", "baseline_batch_size")}
    asking = 0
    for wrapper, own in calls.items():
        for module, *flags in own:
            args = vars(importlib.import_module(module).parser().parse_args(flags))
            if "max_new_tokens" not in args:
                continue  # it generates nothing from images
            asking += 1
            if module != "baselines.evaluate_pope":  # it has questions of its own
                assert args["prompt"] == values["question"], f"{wrapper}: {module} drops the question"
            assert args["batch_size"] in sizes, f"{wrapper}: {module} drops the batch size"
            if module not in ("baselines.evaluate_pope", "llava_hh.scripts.reference_loss"):
                expected = int(values["max_new_tokens"])
                assert args["max_new_tokens"] == expected, f"{wrapper}: {module} drops the length"
    assert asking >= 14


def test_nothing_of_the_environment_reaches_a_wrapper(marked, tmp_path, monkeypatch):
    """Also for settings that a profile leaves out."""
    profile = tmp_path / "short.sh"
    kept = {name: value for name, value in marked[0].items() if name not in ("question", "published_heads")}
    profile.write_text("\n".join([". bash_scripts/python.sh", *(f'{name}="{value}"' for name, value in kept.items())]))
    for name in marked[0]:
        monkeypatch.setenv(name, "leak")
    for wrapper, own in all_calls(str(profile), tmp_path / "calls").items():
        assert not any("leak" in argument for call in own for argument in call), wrapper
    assert read_profile(str(profile))["question"] == ""


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_set_known_names_to_right_numbers(profile):
    text = (ROOT / "bash_scripts/profiles" / f"{profile}.sh").read_text()
    assert set(re.findall(r"^ *(?:if .*then )?(\w+)=", text, re.MULTILINE)) <= read_profile(profile).keys()
    assert wrong_numbers(read_profile(profile)) == []


@pytest.mark.parametrize("wrapper", OF_PROFILES, ids=lambda path: path.name)
def test_no_wrapper_overrides_a_setting(wrapper):
    assigned = set(re.findall(r"^\s*(\w+)=", wrapper.read_text(), re.MULTILINE))
    assert not assigned & read_profile("mini").keys()


@pytest.mark.parametrize("profile", [*PROFILES, "own"])
def test_lists_are_as_long_as_any_number_of_heads_that_is_taken(profile, tmp_path):
    name, settings = profile, read_profile("mini")
    if profile == "own":
        name = str(tmp_path / "own.sh")
        Path(name).write_text(". bash_scripts/profiles/mini.sh\npart_top_k=77\n")
    settings = read_profile(name)
    numbers = [int(value) for key, value in settings.items() if key.endswith("top_k")]
    assert len(numbers) == len(TOP_KS)
    lengths = []
    for wrapper in ("bash_scripts/attribute.sh", "bash_scripts/analysis/heads_of_parts.sh"):
        (tmp_path / Path(wrapper).stem).mkdir()
        for module, *flags in calls_of(ROOT / wrapper, name, tmp_path / Path(wrapper).stem):
            args = importlib.import_module(module).parser().parse_args(flags)
            lengths += [args.list_length] if hasattr(args, "list_length") else []
    assert lengths == 3 * [max(30, *numbers)]


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
