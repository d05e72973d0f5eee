"""The wheel: one package with all that it needs, installed into an empty folder and run away from the repository."""

import csv
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from tests.support.repository import PACKAGE, ROOT

LINKED = ("baselines", "newer_models", "checkpoints/heads")  # what links of the package lead to
NOT_CARRIED = (".sh", ".pyc")
LMMS_EVAL = """
class ModelManifest:
    def __init__(self, model_id, simple_class_path):
        self.model_id, self.simple_class_path = model_id, simple_class_path
"""
ENTRY_POINT = """
import sys
from importlib import import_module
from importlib.metadata import distribution
[point] = distribution("llava_hh").entry_points.select(group="lmms_eval.models")
manifest = point.load()()
module, name = manifest.simple_class_path.rsplit(".", 1)
print(point.name, manifest.model_id, getattr(import_module(module), name).is_simple, import_module(module).__file__)
"""


def call(*command: object, **more: object) -> subprocess.CompletedProcess:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **more)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built of a copy, for setuptools leaves its files beside what it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    leave_out = shutil.ignore_patterns("__pycache__")
    for name in ("llava_hh", *LINKED):
        shutil.copytree(ROOT / name, folder / "copy" / name, symlinks=True, ignore=leave_out)
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / "copy")
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    done = call(*pip, "--wheel-dir", folder, folder / "copy")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--disable-pip-version-check")
    done = call(*pip, "--target", folder, wheel)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def run(installed: Path, *command: object, also: Path | None = None) -> subprocess.CompletedProcess:
    """Python with only that installation on its path, in a folder beside it."""
    elsewhere = installed.with_name("elsewhere")
    elsewhere.mkdir(exist_ok=True)
    paths = os.pathsep.join(str(path) for path in (installed, also) if path)
    environment = {name: value for name, value in os.environ.items() if name not in ("PROFILE", "LAUNCH")}
    environment |= {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return call(sys.executable, *command, cwd=elsewhere, env=environment)


def test_the_wheel_has_one_package_with_every_file(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        listed = [
            row[0]
            for name in names
            if name.endswith("RECORD")
            for row in csv.reader(archive.read(name).decode().splitlines())
        ]
        (top,) = (archive.read(name).decode().split() for name in names if name.endswith("top_level.txt"))
    assert top == ["llava_hh"] and sorted(listed) == sorted(names)
    assert {name.split("/")[0] for name in names} == {"llava_hh", f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"}
    there = (Path(folder) / name for folder, _, own in os.walk(PACKAGE, followlinks=True) for name in own)
    expected = {path.relative_to(ROOT).as_posix() for path in there if path.suffix not in NOT_CARRIED}
    assert {name for name in names if name.startswith("llava_hh/")} == expected
    heads = {f"llava_hh/published_heads/{path.name}" for path in (ROOT / "checkpoints/heads").glob("*.json")}
    assert heads < expected and "llava_hh/baselines/halc/decode.py" in expected


@pytest.fixture(scope="module")
def large_enough(tiny_checkpoint, tmp_path_factory) -> Path:
    """The tiny checkpoint with as many heads as LLaVA-1.5-7B, for which a head list was published."""
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("published") / "model"))
    config = LlavaConfig.from_pretrained(folder, trust_remote_code=False)
    sizes = dict.fromkeys(("num_hidden_layers", "num_attention_heads", "num_key_value_heads"), 32)
    config.text_config.update(sizes | {"head_dim": 2})
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", ["adhh:top_k=5,threshold=0.2", "vcd_paper"])
def test_an_installation_captions(method, installed, large_enough, tiny_coco, tmp_path):
    images = ("--image-folder", tiny_coco / "val2014", "--annotations", tiny_coco / "annotations", "--limit", 2)
    more = ("--max-new-tokens", 5, "--heads", "published", "--method", method, "--out", tmp_path)
    done = run(installed, "-m", "llava_hh", "caption", "--model", large_enough, *images, *more)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len((tmp_path / "captions.jsonl").read_text().splitlines()) == 2
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["commit"] is None, "the package of the repository was run"


def test_lmms_eval_finds_the_model_of_an_installation(installed, tmp_path):
    package = tmp_path / "lmms_eval" / "models"
    package.mkdir(parents=True)
    for file in (package.parent / "__init__.py", package / "__init__.py"):
        file.touch()
    (package / "registry_v2.py").write_text(LMMS_EVAL)
    done = run(installed, "-c", ENTRY_POINT, also=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = installed / "llava_hh/baselines/lmms_eval_model.py"
    assert done.stdout.split() == ["llava_hh", "llava_hh", "True", str(expected)]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["doctor"], "PROFILE='mini': a profile needs bash_scripts/profiles of a clone of the repository"),
        (["caption", "--profile", "llava-v1.5-7b"], "a profile needs bash_scripts/profiles of a clone"),
    ],
)
def test_what_needs_a_clone_says_so_in_one_line(flags, said, installed):
    done = run(installed, "-m", "llava_hh", *flags)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and said in line
