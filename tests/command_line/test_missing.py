"""A package that is not installed is one line, however a command begins."""

import os
import subprocess
import sys

import pytest

from llava_hh.command_line.missing import INSTALL, missing_in_one_line
from llava_hh.command_line.script import errors_in_one_line
from tests.support.repository import ROOT


@pytest.mark.parametrize("command", [["llava_hh", "doctor"], ["llava_hh.command_line.route", "caption", ""]])
def test_without_packages_a_command_is_one_line(command):
    bare = [sys.executable, "-S", "-m", *command]  # -S: only the standard library
    ended = subprocess.run(bare, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert ended.returncode == 2 and ended.stdout == ""
    name, _, advice = ended.stderr.partition(" is not installed; ")
    assert name in ("error: numpy", "error: safetensors") and advice == f"{INSTALL}\n"


def test_what_is_missing_later_is_the_same_line(capsys):
    with pytest.raises(SystemExit) as end, missing_in_one_line(), errors_in_one_line(debug=False):
        import no_such_package.part  # noqa: F401
    assert end.value.code == 2
    assert capsys.readouterr().err == f"error: no_such_package is not installed; {INSTALL}\n"


def test_a_module_of_ours_and_debug_keep_the_error():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), missing_in_one_line():
        import llava_hh.no_such_module  # noqa: F401
    with pytest.raises(ModuleNotFoundError, match="no_such_package"), missing_in_one_line(debug=True):
        import no_such_package  # noqa: F401
