"""docs/getting_started.md: its blocks of Python run as they stand, one after the other, and print what it says."""

import re
import runpy

import pytest

from tests.support.repository import ROOT
from tests.support.snippets import blocks_of

BLOCK = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```\n", re.DOTALL)
NUMBER = re.compile(r"\d+(?:\.\d+)?")
PATH = ROOT / "docs" / "getting_started.md"
PAGE = PATH.read_text()


def test_blocks_print_what_the_page_says(mini_path, tmp_path, monkeypatch, capsys):
    if not (ROOT / "dataset" / "mini" / "val2014").is_dir():
        pytest.skip("mini's data set is not drawn: sh bash_scripts/quickstart.sh")
    for folder in ("checkpoints", "dataset"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall(PAGE)
    run = [block for block in blocks_of(PATH) if block.language == "python" and not block.not_run]
    assert [code for code, _ in blocks] == [block.code for block in run] and len(run) >= 5
    assert sum(bool(line.strip()) for code, _ in blocks for line in code.splitlines()) >= 20
    namespace: dict = {}
    for code, expected in blocks:
        (tmp_path / "block.py").write_text(code)
        namespace = runpy.run_path(str(tmp_path / "block.py"), namespace)
        printed = capsys.readouterr().out
        assert NUMBER.sub("#", printed) == NUMBER.sub("#", expected)
        # another processor may round the last digit to the other side
        assert [*map(float, NUMBER.findall(printed))] == pytest.approx(
            [*map(float, NUMBER.findall(expected))], abs=0.011
        )
    assert (tmp_path / "results/influence_backpack.png").stat().st_size > 10_000


def test_the_readme_shows_the_first_block():
    code, output = BLOCK.search(PAGE).groups()
    assert f"```python\n{code}```\n\n```text\n{output}```\n" in (ROOT / "README.md").read_text()
