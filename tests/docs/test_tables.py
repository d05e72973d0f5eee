"""The tables of README and docs say what the committed result files say."""

import subprocess

import pytest

from tests.support.shown_tables import PAGES, ROOT, SHOWN, renewed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_their_files(page):
    text = page.read_text(encoding="utf-8")
    assert renewed(text) == text, "python -m tests.support.shown_tables"


def test_there_are_such_tables_and_their_files_are_committed():
    files = {found[1] for page in PAGES for found in SHOWN.finditer(page.read_text(encoding="utf-8"))}
    assert "results/mini/measured.json" in files
    for name in files:
        done = subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT, check=False)
        assert (ROOT / name).is_file() and done.returncode != 0, name
