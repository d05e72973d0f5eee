"""What the code of this repository must not do: run what data says, load pickles, reach for the network unasked."""

import ast

import pytest

from tests.support.repository import ROOT

FOLDERS = ("llava_hh", "baselines", "newer_models", "benchmarks", "tests")
FILES = sorted([*(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")), *ROOT.glob("*.py")])
PROGRAM = [path for path in FILES if path.relative_to(ROOT).parts[0] not in ("tests", "benchmarks")]
UNSAFE_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "telnetlib", "ftplib"}
NETWORK = {"requests", "urllib", "http", "httpx", "socket", "aiohttp", "ssl", "huggingface_hub", "smtplib"}
UNSAFE_CALLS = {"eval", "exec", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"}
# The network is asked for what a user names, as org/name of the hub or by `llava-hh download`, by these modules alone.
ASKING = {
    "llava_hh/models/hub.py": {"network: imports huggingface_hub"},
    "llava_hh/models/hub_cache.py": {"network: imports huggingface_hub"},  # what is on the disk
    "llava_hh/supplies/fetching.py": {"network: imports http", "network: imports urllib"},
}
IMPLEMENTATIONS = {"attn_implementation", "experts_implementation", "kernel_config", "use_kernels"}
UNSAFE_CALLS |= {"torch.hub.load", "numpy.save", "np.save", "tempfile.mktemp"}


def problems(source: str) -> list[str]:
    """What is unsafe in a module's source, with the line of each; that it reaches for the network stands by itself."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module] if {alias.name for alias in node.names} != {"UnpicklingError"} else []
        tops = {name.split(".")[0] for name in names}
        found += [f"{node.lineno}: imports {top}" for top in sorted(tops & UNSAFE_MODULES)]
        found += [f"{node.lineno}: network: imports {top}" for top in sorted(tops & NETWORK)]
        if isinstance(node, ast.Call):
            found += [f"{node.lineno}: {problem}" for problem in call_problems(node)]
    return found


def call_problems(call: ast.Call) -> list[str]:
    name = ast.unparse(call.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    found = [f"calls {name}"] if name in UNSAFE_CALLS else []
    if name == "torch.load" and given.get("weights_only") != "True":
        found.append("torch.load without weights_only=True")
    if name.endswith((".load", "load")) and given.get("allow_pickle", "False") != "False":
        found.append("allow_pickle")
    if given.get("shell", "False") != "False":
        found.append("a shell")
    if given.get("trust_remote_code", "False") != "False":
        found.append("trust_remote_code")
    elif name.endswith("from_pretrained") and "trust_remote_code" not in given:
        found.append("from_pretrained without trust_remote_code=False")
    if any("/" in given[name] for name in IMPLEMENTATIONS & given.keys()):
        found.append("a kernel of the hub")
    return found


@pytest.mark.parametrize("path", PROGRAM, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_program_is_safe(path):
    allowed = ASKING.get(str(path.relative_to(ROOT)), set())
    assert [problem for problem in problems(path.read_text()) if problem.split(": ", 1)[1] not in allowed] == []


def test_modules_that_ask_the_network_are_used_where_users_name_something():
    """By loading what is named, flags, methods and their tools, and llava-hh download; by nothing else."""
    asking = {"llava_hh.models.hub", "llava_hh.supplies.fetching"}
    users = set()
    for path in PROGRAM:
        nodes = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom | ast.Import)
        ]
        modules = {getattr(node, "module", None) for node in nodes}
        modules |= {f"{getattr(node, 'module', None)}.{alias.name}" for node in nodes for alias in node.names}
        users |= {str(path.relative_to(ROOT))} if modules & asking else set()
    assert users == {
        "baselines/agla.py",
        "baselines/halc/scorer.py",
        "baselines/halc/settings.py",
        "llava_hh/command_line/script.py",
        "llava_hh/decoding/making.py",
        "llava_hh/models/lvlm.py",
        "llava_hh/supplies/download.py",
    }


def test_tests_and_benchmarks_are_safe_too():
    """They may look for a free port, load what they made themselves, and run what llava-hh export writes."""
    allowed = {
        "from_pretrained without trust_remote_code=False": {path.name for path in FILES if path not in PROGRAM},
        "a kernel of the hub": {"test_without_code.py"},
        "trust_remote_code": {"test_export.py"},
        "calls exec": {"test_export.py"},
        "imports pickle": {"code.py"},  # to write what must not be read
        "network: imports socket": {"launching.py", "pair.py", "scale.py"},
        "network: imports http": {"hub_server.py"},  # a server on the loopback
        "network: imports urllib": {"hub_server.py"},
        "network: imports huggingface_hub": {"hub_server.py", "test_hub.py", "test_hub_refusals.py"},  # points it there
    }
    for path in sorted(set(FILES) - set(PROGRAM)):
        found = problems(path.read_text())
        left = [problem for problem in found if path.name not in allowed.get(problem.split(": ", 1)[1], ())]
        assert not left, f"{path.relative_to(ROOT)}: {left}"


UNSAFE = [
    "import pickle",
    "from joblib import load",
    "from pickle import UnpicklingError, load",
    "import urllib.request",
    "def f():\n    from requests import get",
    "eval('1')",
    "exec(text)",
    "import os\nos.system('x')",
    "import yaml\nyaml.load(file)",
    "import torch\ntorch.load(path)",
    "import torch\ntorch.load(path, weights_only=False)",
    "import numpy as np\nnp.load(path, allow_pickle=True)",
    "import subprocess\nsubprocess.run('ls', shell=True)",
    "AutoModel.from_pretrained(path, trust_remote_code=True)",
    "AutoModel.from_pretrained(path, trust_remote_code=trust)",
    "AutoModel.from_pretrained(path)",
    "AutoProcessor.from_pretrained(path, **options)",
    "from_pretrained(path, config=config)",
    "load(path, attn_implementation='someone/kernel')",
]
SAFE = [
    "from pickle import UnpicklingError",
    "from pickle import UnpicklingError",
    "model.eval()",
    "AutoModel.from_pretrained(path, trust_remote_code=False, **options)",
    "load(path, attn_implementation='sdpa')",
    "import torch\ntorch.load(path, weights_only=True)",
    "from llava_hh.models import original\noriginal.exec_all()",
    "subprocess.run(['ls'], shell=False)",
    "import json\njson.load(file)",
]


@pytest.mark.parametrize("source", UNSAFE)
def test_each_rule_finds_what_it_is_for(source):
    assert len(problems(source)) == 1


@pytest.mark.parametrize("source", SAFE)
def test_what_looks_alike_is_let_pass(source):
    assert problems(source) == []


def test_shell_scripts_run_no_text_and_fetch_nothing():
    """quickstart's environment.sh installs the pinned packages through pip, download.sh asks llava-hh download."""
    for path in sorted(ROOT.rglob("*.sh")):
        if ".venv" in path.parts:
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            words = line.split("#")[0].split()
            assert not {"eval", "curl", "wget"} & set(words), f"{path}:{number}: {line}"
