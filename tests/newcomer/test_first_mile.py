"""What the README asks a newcomer to do with mini after set-up, on few images, in a copy whose path has a blank."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.repository import ROOT

pytestmark = pytest.mark.mini
N_CAPTIONS, N_COMPARED = 12, 8
PROFILE = f"""inherit=mini
result_path="results/first mile"
attribution_images={N_CAPTIONS}
report_images={N_COMPARED}
random_draws=1
batch_size=4
"""
RATES = {"CHAIRs", "CHAIRi", "recall", "precision", "f1", "repeated"}


@pytest.fixture(scope="module")
def copy(mini_path, tmp_path_factory) -> Path:
    """The tracked files, mini's checkpoint and images, and a profile of one's own."""
    folder = tmp_path_factory.mktemp("newcomer") / "hallucination heads"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    (folder / "checkpoints/mini/model").symlink_to(mini_path)
    if (ROOT / "dataset/mini").is_dir():
        (folder / "dataset/mini").symlink_to(ROOT / "dataset/mini")
    else:
        run(folder, "sh", "bash_scripts/mini/data.sh")
    (folder / "own.sh").write_text(PROFILE)
    return folder


def run(folder: Path, *command: str) -> str:
    """Run a command of the README in the copy; what it prints."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LAUNCH", "DATASET")}
    environment |= {
        "PYTHON": sys.executable,
        "PROFILE": "./own.sh",
        "OMP_NUM_THREADS": "1",
    }  # other tests run beside it
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def n_lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def check_rates(entry: dict) -> None:
    """Rates are shares, each within its interval."""
    for name in RATES & entry.keys():
        low, high = entry["interval"][name] if name in entry.get("interval", {}) else (0, 1)
        assert 0 <= low <= entry[name] <= high <= 1, name


@pytest.fixture(scope="module")
def attributed(copy) -> Path:
    run(copy, "sh", "bash_scripts/attribute.sh")
    return copy / f"results/first mile/train2014-{N_CAPTIONS}-seed42"


@pytest.fixture(scope="module")
def decoded(copy, attributed) -> Path:
    run(copy, "sh", "bash_scripts/decoding.sh")
    return copy / f"results/first mile/val2014-{N_COMPARED}-seed42"


def test_the_command_explains_itself(copy):
    page = run(copy, sys.executable, "-m", "llava_hh", "--help")
    for verb in ("caption", "score", "attribute", "evaluate", "compare", "figure", "report", "doctor"):
        assert re.search(rf"^ +{verb} ", page, re.MULTILINE), verb


def test_doctor_finds_nothing_wrong(copy):
    lines = run(copy, "sh", "bash_scripts/doctor.sh").splitlines()
    assert len(lines) > 5 and not [line for line in lines if " FAIL " in line]


def test_attribute_finds_heads(attributed):
    assert n_lines(attributed / "captions.jsonl") == N_CAPTIONS
    overall = json.loads((attributed / "captions_eval_results.json").read_text())["overall_metrics"]
    check_rates(overall)
    assert overall["CHAIRs"] > 0
    result = json.loads((attributed / "identify_attention_head/attribution_result.json").read_text())
    heads = [tuple(head) for head in result["hal_heads"]]
    assert len(set(heads)) == len(heads) == 30 and not {*heads} & {tuple(head) for head in result["non_hal_heads"]}
    assert all(0 <= layer < 30 and 0 <= head < 9 for layer, head in heads)
    n_words = n_lines(attributed / "identify_attention_head/targets.jsonl")
    assert 0 < result["n_hallucinated_words"] < n_words
    assert (attributed / "identify_attention_head/head_map.png").stat().st_size > 10_000


def test_decoding_compares_methods(decoded):
    methods = json.loads((decoded / "summary.json").read_text())["methods"]
    kinds = {entry.get("kind", name) for name, entry in methods.items()}
    assert {"greedy", "adhh"} <= kinds and len(methods) >= 4
    for entry in methods.values():
        check_rates(entry)
        assert entry["n"] == N_COMPARED and entry["mentions"] > 1 and entry["length"] > 10
    captions = [*decoded.glob("*/captions.jsonl")]
    assert len(captions) == len(methods) and {n_lines(path) for path in captions} == {N_COMPARED}
    assert "| greedy | " in (decoded / "summary.md").read_text()
    for picture in ("summary.png", "summary_captions.png"):
        assert (decoded / picture).stat().st_size > 10_000


def test_details_of_chair(copy, decoded):
    run(copy, "sh", "bash_scripts/analysis/chair_details.sh")
    details = json.loads((decoded / "chair_details/chair_details.json").read_text())
    assert {run["label"] for run in details["runs"].values()} == {"greedy", "AD-HH"} and details["n"] == N_COMPARED
    for name in ("categories", "cooccurrence", "positions"):
        assert (decoded / f"chair_details/chair_{name}.png").stat().st_size > 1_000


def test_the_page_shows_all_of_it(copy, attributed, decoded):
    run(copy, "sh", "bash_scripts/report.sh")
    page = (copy / "results/first mile/report.html").read_text()
    for shown in ("AD-HH", f"{decoded.name}/summary.json", "identify_attention_head/attribution_result.json"):
        assert shown in page, shown
    assert 'href="first mile/report.html"' in (copy / "results/index.html").read_text().replace("%20", " ")


def test_a_photo_becomes_a_page(copy, attributed):
    """In far more time than the README says, for slow machines; the heads are those that were found."""
    photo = sorted((copy / "dataset/mini/val2014").glob("*.jpg"))[0]
    begun = time.monotonic()
    *said, page = run(copy, "sh", "bash_scripts/explain.sh", str(photo.relative_to(copy))).splitlines()
    assert time.monotonic() - begun < 90
    assert [line.split(":")[0] for line in said if line[0] != " "] == ["greedy", "AD-HH"]
    content = json.loads(Path(page).with_suffix(".json").read_text())
    listed = json.loads((attributed / "identify_attention_head/attribution_result.json").read_text())["hal_heads"]
    assert content["image"] == photo.name and content["heads"] == listed[:2] and content["captions"][0]["words"]
    assert "No truth was given" in Path(page).read_text()


def test_the_python_of_the_readme(copy):
    code, printed = re.search(
        r"```python\n(.*?)```\n\n```text\n(.*?)```\n", (copy / "README.md").read_text(), re.S
    ).groups()
    assert run(copy, sys.executable, "-c", code) == printed
