"""What the tests of the report share: a copy of the tiny results, and a browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chromium import PROGRAM, Page, chromium


@pytest.fixture
def results(tiny_results, tmp_path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(tiny_results, tmp_path / "results" / "tiny"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Page]:
    with chromium(PROGRAM, tmp_path_factory.mktemp("profile")) as page:
        yield page
