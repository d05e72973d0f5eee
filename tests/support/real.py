"""Files of the hub that are not committed: in a folder that LLAVA_HH_REAL names, else the tests that read them skip."""

import os
from pathlib import Path

import pytest


def real(name: str, *files: str) -> Path:
    """A model's folder; skips the test, naming what it misses, where one of `files` is not in it."""
    root = os.environ.get("LLAVA_HH_REAL")
    if not root:
        pytest.skip("LLAVA_HH_REAL names no folder with the hub's files; README says which")
    for file in files:
        if not (Path(root) / name / file).is_file():
            pytest.skip(f"{Path(root) / name / file} is not there")
    return Path(root) / name
