"""quickstart.sh with a stub for Python: its numbered steps; wrappers without PROFILE go on from its results."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from llava_hh.command_line.profiles import read_profile
from tests.support.repository import ROOT
from tests.support.wrappers import called, calls_in, calls_of, make_stub, parsed

NEXT = ["report", "decoding", "choose_adhh", "pope", "reference_loss", "analysis/chair_details", "targeted_finetune"]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory) -> tuple[list[str], list[list[str]], Path]:
    """What it prints, the calls that it makes, and the copy that it ran in, where all is installed."""
    folder = tmp_path_factory.mktemp("quickstart") / "a copy"
    shutil.copytree(ROOT / "bash_scripts", folder / "bash_scripts")
    (folder / ".venv/bin").mkdir(parents=True)
    installed = [(ROOT / name).read_bytes() for name in ("requirements.txt", "setup.py")]
    for name, content in zip(("requirements.txt", "setup.py"), installed, strict=True):
        (folder / name).write_bytes(content)
    (folder / ".venv/installed").write_bytes(b"".join(installed))
    make_stub(folder / ".venv/bin/python", folder / "calls")
    environment = {**os.environ, "PROFILE": "llava-v1.5-7b"}  # it is about mini whatever is set
    command = ["sh", folder / "bash_scripts/quickstart.sh"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines(), calls_in(folder / "calls"), folder


def test_steps_are_numbered_and_the_last_line_says_what_to_open(quickstart):
    lines, _, folder = quickstart
    steps = [line.removeprefix("== ").split(": ")[0] for line in lines if line.startswith("== ")]
    assert steps == [f"{number} of 5" for number in range(1, 6)]
    assert lines[-1].startswith(f"Open {folder}/{read_profile('mini')['result_path']}/report.html in a browser")


def test_controls_are_matched(quickstart):
    [methods] = [parsed(call).methods for call in quickstart[1] if called(call) == "evaluate"]
    assert [method.split(":")[0] for method in methods] == ["adhh", "random", "random"] and "match=rate" in methods[2]


@pytest.mark.parametrize("wrapper", NEXT)
def test_wrappers_without_a_profile_find_what_it_made(wrapper, quickstart, tmp_path, monkeypatch):
    made = [parsed(call) for call in quickstart[1] if "--out" in call]
    folders = {args.out for args in made} | {Path(read_profile("mini")["result_path"])}
    folders |= {args.out / "greedy" for args in made if hasattr(args, "methods")}
    monkeypatch.delenv("PROFILE", raising=False)
    calls = [parsed(call) for call in calls_of(ROOT / f"bash_scripts/{wrapper}.sh", "", tmp_path)]
    names = ("heads", "captions", "choosing_captions", "results", "first", "runs")
    given = [getattr(args, name, None) or [] for args in calls for name in names]
    every = [path for value in given for path in (value if isinstance(value, list) else [value])]
    read = [path for path in every if isinstance(path, Path)]  # others, name=file, are given where the files are there
    assert read and all({path, path.parent} & folders for path in read), read


def test_its_top_2_heads_are_those_of_the_full_list():
    """As both were measured; the profile switches 2 heads off."""
    quick, full = (
        json.loads((ROOT / f"results/mini/measured_{name}.json").read_text()) for name in ("quickstart", "head_map")
    )
    assert read_profile("mini")["top_k"] == read_profile("mini_full")["top_k"] == "2"
    assert quick["hal_heads"][:2] == full["hal_heads"][:2]
    assert quick["n_captions"] < full["n_captions"]
