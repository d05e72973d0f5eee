"""What README and docs/getting_started.md ask a newcomer to do with mini, in order, in a copy whose path has a blank.

The quickstart and all that follows it, as the lines stand there; the profile of mini is made smaller in the copy.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llava_hh.command_line.profiles import read_profile
from tests.support.repository import ROOT
from tests.support.snippets import first_steps

pytestmark = pytest.mark.mini
SMALLER = {"attribution_images": 12, "report_images": 8, "batch_size": 4}
PROFILE = read_profile("mini")
RATES = {"CHAIRs", "CHAIRi", "recall", "precision", "f1", "repeated"}
STEPS = first_steps()


def smaller(text: str) -> str:
    """A line of the page with the folders of the smaller profile."""
    for split, name in (("train2014", "attribution_images"), ("val2014", "report_images")):
        text = text.replace(f"{split}-{PROFILE[name]}-", f"{split}-{SMALLER[name]}-")
    return text


@pytest.fixture(scope="module")
def copy(mini_path, tmp_path_factory) -> Path:
    """The tracked files, mini's checkpoint and images, an environment with the packages of this one."""
    folder = tmp_path_factory.mktemp("newcomer") / "hallucination heads"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    for name in ("checkpoints/mini/model", "checkpoints/mini/base", "dataset/mini"):
        if (ROOT / name).is_dir():
            (folder / name).symlink_to(ROOT / name)
    profile = folder / "bash_scripts/profiles/mini.sh"
    text = profile.read_text()
    for name, value in SMALLER.items():
        text, n_found = re.subn(rf"^{name}=\d+", f"{name}={value}", text, flags=re.MULTILINE)
        assert n_found == 1, name
    profile.write_text(text)
    (folder / ".venv/bin").mkdir(parents=True)
    for file in Path(sys.executable).parent.iterdir():
        (folder / ".venv/bin" / file.name).symlink_to(file)
    for name in ("pyvenv.cfg", "lib"):
        (folder / ".venv" / name).symlink_to(Path(sys.prefix) / name)
    installed = (folder / "requirements.txt").read_text() + (folder / "setup.py").read_text()
    (folder / ".venv/installed").write_text(installed)
    return folder


def run(folder: Path, line: str) -> str:
    """Run a command line in the copy; what it prints."""
    left_out = ("PYTHON", "PROFILE", "LAUNCH", "DATASET", "LLAVA_HH_REAL")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}  # other tests run beside it
    done = subprocess.run(["sh", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Warning" not in done.stderr and "Traceback" not in done.stderr, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def quick(copy) -> tuple[Path, str]:
    """Where the quickstart's results lie, and what it printed."""
    printed = run(copy, "sh bash_scripts/quickstart.sh")
    return copy / "results/mini/quick", printed


def n_lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def check_rates(entry: dict) -> None:
    """Rates are shares, each within its interval."""
    for name in RATES & entry.keys():
        low, high = entry["interval"][name] if name in entry.get("interval", {}) else (0, 1)
        assert 0 <= low <= entry[name] <= high <= 1, name


def test_the_quickstart_says_how_far_it_is_and_what_to_open(quick):
    folder, printed = quick
    assert re.findall(r"^== (\d) of (\d): ", printed, re.MULTILINE) == [(str(n), "5") for n in range(1, 6)]
    assert printed.splitlines()[-1].startswith(f"Open {folder}/report.html ")


def test_the_quickstart_finds_heads(quick):
    folder = quick[0] / f"train2014-{SMALLER['attribution_images']}-seed42"
    assert n_lines(folder / "captions.jsonl") == SMALLER["attribution_images"]
    overall = json.loads((folder / "captions_eval_results.json").read_text())["overall_metrics"]
    check_rates(overall)
    assert overall["CHAIRs"] > 0
    result = json.loads((folder / "identify_attention_head/attribution_result.json").read_text())
    heads = [tuple(head) for head in result["hal_heads"]]
    assert len(set(heads)) == len(heads) == 30 and not {*heads} & {tuple(head) for head in result["non_hal_heads"]}
    assert all(0 <= layer < 30 and 0 <= head < 9 for layer, head in heads)
    n_words = n_lines(folder / "identify_attention_head/targets.jsonl")
    assert 0 < result["n_hallucinated_words"] < n_words
    assert (folder / "identify_attention_head/head_map.png").stat().st_size > 10_000


def test_the_quickstart_compares_methods(quick):
    folder, n_compared = quick[0] / f"val2014-{SMALLER['report_images']}-seed42", SMALLER["report_images"]
    methods = json.loads((folder / "summary.json").read_text())["methods"]
    kinds = {entry.get("kind", name) for name, entry in methods.items()}
    assert {"greedy", "adhh"} <= kinds and len(methods) >= 4
    for entry in methods.values():
        check_rates(entry)
        assert entry["n"] == n_compared and entry["mentions"] > 1 and entry["length"] > 10
    captions = [*folder.glob("*/captions.jsonl")]
    assert len(captions) == len(methods) and {n_lines(path) for path in captions} == {n_compared}
    assert "| greedy | " in (folder / "summary.md").read_text()
    for picture in ("summary.png", "summary_captions.png"):
        assert (folder / picture).stat().st_size > 10_000
    details = json.loads((folder / "chair_details/chair_details.json").read_text())
    assert {run["label"] for run in details["runs"].values()} == {"greedy", "AD-HH"} and details["n"] == n_compared


def test_the_page_shows_all_of_it(copy, quick):
    page = (quick[0] / "report.html").read_text()
    shown = [
        f"val2014-{SMALLER['report_images']}-seed42/summary.json",
        "identify_attention_head/attribution_result.json",
    ]
    for text in ("AD-HH", *shown):
        assert text in page, text
    assert 'href="mini/quick/report.html"' in (copy / "results/index.html").read_text()


def test_there_are_twenty_five_steps():
    assert [int(number) for number, *_ in STEPS] == [*range(1, 26)]


@pytest.mark.parametrize(("about", "made", "line"), [step[1:] for step in STEPS], ids=[step[0] for step in STEPS])
def test_step(copy, quick, about, made, line):
    path = copy / smaller(made) if made else None
    if made and path.exists():  # the quickstart made it
        path.unlink()
    printed = run(copy, smaller(line))
    assert printed.strip() or line.startswith("cp ")
    assert not made or path.stat().st_size > 100, about


def test_doctor_found_nothing_wrong(copy, quick):
    lines = run(copy, "sh bash_scripts/doctor.sh").splitlines()
    assert len(lines) > 5 and not [line for line in lines if " FAIL " in line]


def test_the_explanations_have_the_heads_that_were_found(copy, quick):
    folder = quick[0] / "explain"
    attributed = quick[0] / f"train2014-{SMALLER['attribution_images']}-seed42/identify_attention_head"
    listed = json.loads((attributed / "attribution_result.json").read_text())["hal_heads"]
    first, judged = (json.loads((folder / name / "explanation.json").read_text()) for name in ("photo", "photo-2"))
    assert first["image"] == "photo.jpg" and first["heads"] == listed[:2] and first["captions"][0]["words"]
    assert first["truth"] is None and any(word["hallucinated"] for word in judged["captions"][0]["words"])


def test_the_python_of_the_readme(copy):
    code, printed = re.search(
        r"```python\n(.*?)```\n\n```text\n(.*?)```\n", (copy / "README.md").read_text(), re.S
    ).groups()
    (copy / "snippet.py").write_text(code)
    assert run(copy, ".venv/bin/python snippet.py") == printed
