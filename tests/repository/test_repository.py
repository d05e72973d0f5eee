"""The repository as a whole: modules import, layers hold, wrappers start, nothing is written twice."""

import ast
import importlib
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

import llava_hh
from llava_hh.decoding.grammar import parse
from tests.support.repository import BASELINES, MODULES, NEWER, PACKAGE, ROOT
from tests.support.wrappers import WRAPPERS, called, calls_in, calls_of, make_stub, parsed

# The order in which packages import: a module imports from its own package and from those that stand before it.
LAYERS = re.findall(r"^    (\w+) {2,}\w", llava_hh.__doc__, re.MULTILINE)


TESTS = ROOT / "tests"


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return names


@pytest.mark.parametrize("path", MODULES + BASELINES + NEWER, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_and_keeps_to_its_layer(path):
    importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    package = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if package == "__main__":
        return
    allowed = LAYERS[: LAYERS.index(package) + 1]
    for name in imported(path):
        if name.startswith("llava_hh."):
            assert name.split(".")[1] in allowed, f"{path.name} imports {name}"


def test_the_order_of_imports_names_each_package_once():
    found = [path.stem for path in PACKAGE.iterdir() if path.name[0] != "_" and path.name != "published_heads"]
    assert sorted(LAYERS) == sorted(found)


def test_the_folders_at_the_top_have_one_name():
    """`baselines/` and `newer_models/` are imported as packages of llava_hh alone, for each module is there once."""
    for folder in ("llava_hh", "baselines", "newer_models", "benchmarks", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            assert not {name.split(".")[0] for name in imported(path)} & {"baselines", "newer_models"}, path


@pytest.mark.parametrize("name", ["baselines", "baselines.vcd", "newer_models.registry"])
def test_the_other_name_is_refused(name):
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr.splitlines()[-1].startswith(f"ImportError: import llava_hh.{name.split('.')[0]}: ")


def test_no_command_line_below_the_scripts():
    """What decides a result reaches the rest as settings and arguments, not as a namespace of flags."""
    allowed = {*(PACKAGE / "command_line").glob("*.py")}
    for path in {*MODULES} - allowed - {*(PACKAGE / "scripts").glob("*.py")}:
        assert not re.search(r"\bargparse\b|\bNamespace\b|(?<![.\w])args\.", path.read_text()), path


def test_no_test_imports_another():
    """What several tests use is in tests/support."""
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
                assert not re.search(r"(^|[. ])test_", " ".join(names)), f"{path.relative_to(ROOT)} imports {names}"


def test_tests_have_a_folder_for_each_package():
    folders = {path.relative_to(TESTS).parts[0] for path in TESTS.glob("*/**/*.py")}
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    others = {"bash_scripts", "docs", "repository", "newcomer", "support", "faults"}
    assert folders == packages | others
    assert {path.name for path in TESTS.glob("*.py")} == {"conftest.py", "test_heads.py"}


def test_figures_do_without_torch():
    for path in (PACKAGE / "figures").glob("*.py"):
        assert not {name for name in imported(path) if name.split(".")[0] in ("torch", "transformers")}, path


def test_the_report_does_without_torch():
    look = "import sys, llava_hh.scripts.report; sys.exit(bool({'torch', 'transformers'} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", look], cwd=ROOT, check=True)


def test_no_function_body_stands_twice():
    bodies = defaultdict(set)
    for path in MODULES + BASELINES + NEWER:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                body = node.body[isinstance(node.body[0], ast.Expr) :]
                if len(body) > 2:
                    bodies[ast.dump(ast.Module(body, []))].add(f"{path.name}:{node.name}")
    assert not [names for names in bodies.values() if len(names) > 1]


@pytest.mark.parametrize("profile", ["mini", "mini_full", "llava-v1.5-7b", "minigpt4"])
@pytest.mark.parametrize("wrapper", WRAPPERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_wrapper_calls_verbs_with_flags_they_know(wrapper, profile, tmp_path):
    if "mini" in wrapper.parts and profile != "mini":
        pytest.skip("this wrapper is for mini alone")
    if wrapper.name == "js_div_in_training.sh" and profile == "minigpt4":
        pytest.skip("its language model was frozen")
    calls = calls_of(wrapper, profile, tmp_path)
    lines = wrapper.read_text().splitlines()
    n_calls = sum(bool(re.match(r'(exec )?"\$PYTHON" -m|(with \w+ )?launch(_last)? ', line)) for line in lines)
    loops = "build measure seeds all targeted_finetune heads_of_parts heads_of_answers reproduce"
    sourced = "attention_reweight_txt attention_reweight_img"
    assert len(calls) == n_calls or wrapper.stem in f"{loops} {sourced}".split()
    for call in calls:
        parsed(call)


def test_a_launcher_and_a_profile_of_ones_own(tmp_path):
    """LAUNCH stands in front of every verb, its own flags included; PROFILE may be a path."""
    profile, log, launcher = tmp_path / "own.sh", tmp_path / "calls", tmp_path / "accelerate"
    profile.write_text("inherit=mini\nmodel_path=/somewhere/else\n")
    make_stub(launcher, log)
    command = f"{launcher} launch --multi_gpu --num_processes 2"
    environment = {**os.environ, "LAUNCH": command, "PROFILE": str(profile), "PYTHON": sys.executable}
    subprocess.run(["sh", ROOT / "bash_scripts/attribute.sh", "--limit", "3"], env=environment, check=True)
    said = [call.splitlines() for call in log.read_text().split("call\n") if call]
    assert [call[:6] for call in said] == [["launch", "--multi_gpu", "--num_processes", "2", "-m", "llava_hh"]] * 3
    assert said[2][-2:] == ["--limit", "3"]
    assert parsed(calls_in(log)[2]).model == Path("/somewhere/else")


def test_finetuning_trains_heads_and_random_heads_with_each_seed(tmp_path):
    *trainings, compare = calls_of(ROOT / "bash_scripts/targeted_finetune.sh", "mini", tmp_path)
    runs = [parsed(call) for call in trainings]
    expected = [(seed, drawn) for seed in (1234, 1235, 1236) for drawn in (None, seed)]
    assert [(own.seed, own.random_heads) for own in runs] == expected
    specs = [parse(text) for text in parsed(compare).methods]
    tuned = [(Path(spec.fields["path"]), spec.fields.get("group")) for spec in specs if spec.kind == "tfhh"]
    assert tuned[:3] == [(run.out / "model", None) for run in runs[::2]]
    assert tuned[3:] == [(run.out / "model", "random_heads_tuned") for run in runs[1::2]]


def test_accelerate_reads_the_configurations():
    files = sorted((ROOT / "bash_scripts/accelerate").glob("*.yaml"))
    assert [file.stem for file in files] == ["ddp", "fsdp", "single", "zero2"]
    for file in files:
        assert load_config_from_file(str(file)).num_processes in (1, 8)


def test_measure_makes_every_call(tmp_path):
    calls = [called(call) for call in calls_of(ROOT / "bash_scripts/mini/measure.sh", "mini", tmp_path)]
    expected = ["mini", "mini", "mini", "caption", "score chair", "attribute", "evaluate", "evaluate"]
    expected += ["compare details", "evaluate", "mini", "mini", "figure modules", "figure bias", "figure inheritance"]
    expected += ["figure divergence", *["evaluate", "figure factors"] * 2, "report figures"]
    expected += ["attribute", *["evaluate", "attribute"] * 3, "compare heads"]  # what heads read, and those of answers
    expected += [*["attribute"] * 2, "compare heads", *["evaluate"] * 2, *["finetune"] * 6, "evaluate"]
    expected += ["evaluate", "prepare-vti", *["evaluate"] * 5, "figure words", "figure words", "report html"]
    expected += ["caption", "score chair", "attribute"]  # those of the quickstart
    expected += ["attribute"] * 2  # AllPath's rankings
    assert calls == expected


def test_no_literal_sizes_of_one_model():
    for path in MODULES + BASELINES + NEWER:
        if "mini" not in path.parts:
            numbers = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
            assert not numbers & {35, 576, 611}, path
