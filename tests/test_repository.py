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

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "llava_hh"
# A module imports only from those that stand before it.
LAYERS = ["locks", "processes", "progress", "parts", "schema", "files", "settings", "blocks", "ids", "runs", "memory"]
LAYERS += ["tables", "profiles", "parsing", "command_line"]
LAYERS += ["module_hooks", "heads", "attention", "spans", "attention_call", "interventions", "trace"]
LAYERS += ["block", "attending", "hooks"]
LAYERS += ["data", "models", "identity", "head_lists", "finite", "footprint", "decoding"]
LAYERS += ["metrics", "datasets", "comparison", "conditions", "generation", "evaluation", "polling", "attribution"]
LAYERS += ["analysis", "finetuning", "figures", "experiments", "mini", "companions", "doctor", "report"]
LAYERS += ["scoring", "comparing", "portable", "flags", "api", "scripts", "__main__"]
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
BASELINES = sorted(path for path in (ROOT / "baselines").rglob("*.py") if path.name != "__init__.py")
NEWER = sorted(path for path in (ROOT / "newer_models").rglob("*.py") if path.name != "__init__.py")
WRAPPERS = sorted(
    path
    for folder in ("bash_scripts", "baselines/bash_scripts", "newer_models")
    for path in (ROOT / folder).rglob("*.sh")
    if path.read_text().startswith("#!") and path.name not in ("quickstart.sh", "test.sh")
)


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_and_keeps_to_its_layer(path):
    importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    allowed = LAYERS[: LAYERS.index(own) + (path.parent != PACKAGE and own != "scripts")]
    for name in imported(path):
        if name.startswith("llava_hh."):
            assert name.split(".")[1] in allowed, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", BASELINES + NEWER, ids=lambda path: str(path.relative_to(ROOT)))
def test_baseline_imports(path):
    importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


def test_the_package_does_without_what_stands_on_it():
    for path in MODULES:
        assert not {name for name in imported(path) if name.split(".")[0] in ("baselines", "newer_models")}, path


def test_no_command_line_below_the_scripts():
    """What decides a result reaches the rest as settings and arguments, not as a namespace of flags."""
    allowed = {PACKAGE / f"{name}.py" for name in ("parsing", "command_line", "flags")}
    for path in {*MODULES} - allowed - {*(PACKAGE / "scripts").glob("*.py")}:
        assert not re.search(r"\bargparse\b|\bNamespace\b|(?<![.\w])args\.", path.read_text()), path


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


STUB = """#!/bin/sh
printf '%s\\n' call "$@" >> "{log}"
"""


def calls_of(wrapper: Path, profile: str, folder: Path, *given: str) -> list[list[str]]:
    """Run a wrapper with a stub for Python and these flags; the arguments of every call, without `-m`."""
    stub, log = folder / "python", folder / "calls"
    stub.write_text(STUB.format(log=log))
    stub.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(stub), "PROFILE": profile}
    done = subprocess.run(
        ["sh", wrapper, *given], cwd="/", env=environment, capture_output=True, text=True, check=False
    )
    # in the end measure.sh copies pictures, which a stub doesn't draw
    assert done.returncode == 0 or wrapper.name == "measure.sh", done.stderr
    return [call.strip().splitlines()[1:] for call in log.read_text().split("call\n") if call]


@pytest.mark.parametrize("profile", ["mini", "mini_quick", "llava-v1.5-7b", "minigpt4"])
@pytest.mark.parametrize("wrapper", WRAPPERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_wrapper_calls_scripts_with_flags_they_know(wrapper, profile, tmp_path):
    if "mini" in wrapper.parts and profile != "mini":
        pytest.skip("this wrapper is for mini alone")
    if wrapper.name == "js_div_in_training.sh" and profile == "minigpt4":
        pytest.skip("its language model was frozen")
    calls = calls_of(wrapper, profile, tmp_path)
    n_calls = sum(line.startswith(('"$PYTHON" -m', "launch ")) for line in wrapper.read_text().splitlines())
    loops = ("build.sh", "measure.sh", "all.sh", "targeted_finetune.sh", "heads_of_parts.sh", "reproduce.sh")
    assert len(calls) == n_calls or wrapper.name in loops
    for module, *flags in calls:
        importlib.import_module(module).parser().parse_args(flags)


def test_a_launcher_and_a_profile_of_ones_own(tmp_path):
    """LAUNCH stands in front of every module, its own flags included; PROFILE may be a path."""
    profile, log, launcher = tmp_path / "own.sh", tmp_path / "calls", tmp_path / "accelerate"
    profile.write_text(". bash_scripts/profiles/mini.sh\nmodel_path=/somewhere/else\n")
    launcher.write_text(STUB.format(log=log))
    launcher.chmod(0o755)
    command = f"{launcher} launch --multi_gpu --num_processes 2"
    environment = {**os.environ, "LAUNCH": command, "PROFILE": str(profile)}
    subprocess.run(["sh", ROOT / "bash_scripts/attribute.sh", "--limit", "3"], env=environment, check=True)
    calls = [call.strip().splitlines() for call in log.read_text().split("call\n") if call]
    assert [call[:5] for call in calls] == [["launch", "--multi_gpu", "--num_processes", "2", "-m"]] * 3
    assert calls[2][-2:] == ["--limit", "3"]
    assert calls[2][calls[2].index("--model") + 1] == "/somewhere/else"


def test_finetuning_trains_heads_and_random_heads_with_each_seed(tmp_path):
    calls = calls_of(ROOT / "bash_scripts/targeted_finetune.sh", "mini", tmp_path)
    *trainings, (compare, *flags) = calls
    parsed = [importlib.import_module(module).parser().parse_args(own) for module, *own in trainings]
    assert [(own.seed, own.random_heads) for own in parsed] == [(1234, None), (1234, 1234), (1235, None), (1235, 1235)]
    compared = importlib.import_module(compare).parser().parse_args(flags)
    assert [*zip(compared.tuned, compared.random_tuned, strict=True)] == [
        (parsed[0].out, parsed[1].out),
        (parsed[2].out, parsed[3].out),
    ]


def test_accelerate_reads_the_configurations():
    files = sorted((ROOT / "bash_scripts/accelerate").glob("*.yaml"))
    assert [file.stem for file in files] == ["ddp", "fsdp", "single", "zero2"]
    for file in files:
        assert load_config_from_file(str(file)).num_processes in (1, 8)


def test_measure_makes_every_call(tmp_path):
    modules = [call[0].rsplit(".")[-1] for call in calls_of(ROOT / "bash_scripts/mini/measure.sh", "mini", tmp_path)]
    expected = "build_mini build_mini build_mini caption evaluate_chair attribute choose_adhh compare_decoding "
    expected += "explain_chair evaluate_pope build_mini build_mini draw_module_influence analyze_attention_bias "
    expected += "analyze_attention_inheritance analyze_js_divergence analyze_attention_reweight "
    expected += "analyze_attention_reweight write_figures_page"
    parts = ["attribute_subset"] * 2 + ["compare_heads"] + ["compare_decoding"] * 2
    last = ["compare_finetuning", *["evaluate"] * 3, "reference_loss", "record_words", "record_words", "report"]
    assert modules == [*expected.split(), *parts, *["targeted_finetune"] * 4, *last]


def test_no_literal_sizes_of_one_model():
    for path in MODULES + BASELINES + NEWER:
        if "mini" not in path.parts:
            numbers = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
            assert not numbers & {35, 576, 611}, path
