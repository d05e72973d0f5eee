"""Wrappers run with a stub for Python: the calls that they make, and how the verbs read these."""

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

from tests.support.repository import ROOT
from tests.support.verbs import script_of

FOLDERS = ("bash_scripts", "baselines/bash_scripts", "newer_models")
WRAPPERS = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.sh")
    if path.read_text().startswith("#!") and path.name not in ("quickstart.sh", "test.sh")
)
# `share` of flags.sh asks Python itself
STUB = f"""#!/bin/sh
if [ "$2" = llava_hh.command_line.route ]; then exec "{sys.executable}" "$@"; fi
printf '%s\\n' call "$@" >> "{{log}}"
"""


def run_wrapper(wrapper: Path, profile: str, stub: Path, *given: str) -> subprocess.CompletedProcess:
    """Run a wrapper from another folder, with this Python and these flags."""
    environment = {**os.environ, "PYTHON": str(stub), "PROFILE": profile}
    return subprocess.run(
        ["sh", wrapper, *given], cwd="/", env=environment, capture_output=True, text=True, check=False
    )


def make_stub(path: Path, log: Path) -> Path:
    """A program that writes its arguments down."""
    path.write_text(STUB.format(log=log))
    path.chmod(0o755)
    return path


def calls_in(log: Path) -> list[list[str]]:
    """The arguments of every call that a stub wrote down, without `-m llava_hh`."""
    calls = [call.removesuffix("\n").split("\n") for call in f"\n{log.read_text()}".split("\ncall\n")[1:]]
    return [call[call.index("llava_hh") + 1 :] for call in calls]


def calls_of(wrapper: Path, profile: str, folder: Path, *given: str) -> list[list[str]]:
    """The verbs that a wrapper calls, each with its flags."""
    stub, log = make_stub(folder / "python", folder / "calls"), folder / "calls"
    given = given or ("photo.jpg",) * (wrapper.name == "explain.sh")
    done = run_wrapper(wrapper, profile, stub, *given)
    # in the end measure.sh copies pictures, which a stub doesn't draw
    assert done.returncode == 0 or wrapper.name == "measure.sh", done.stderr
    return calls_in(log)


def parsed(call: list[str]) -> argparse.Namespace:
    """A call as its verb reads it."""
    return importlib.import_module(script_of(call[0])).parser().parse_args(call[1:])


def called(call: list[str]) -> str:
    """The verb of a call, with what stands below it."""
    below = call[1:2] if call[0] in ("score", "compare", "figure", "report") else []
    return " ".join([call[0], *below])


OF_PROFILES = [path for path in WRAPPERS if "mini" not in path.parts and path.name not in ("reproduce.sh", "doctor.sh")]
