"""The tables of README and docs say what the committed result files say; pictures have theirs beside them."""

import re
import subprocess
from pathlib import Path

import pytest

from llava_hh.command_line.profiles import read_profile
from llava_hh.files.files import read_json
from llava_hh.heads import load_heads
from tests.support.shown_numbers import numbers_renewed
from tests.support.shown_tables import (
    ALLPATH_OF_MINI,
    HEADS_OF_MINI,
    MEASURED_HEADS,
    PAGES,
    ROOT,
    SHOWN,
    allpath_of_mini,
    head_list_of_mini,
    renewed,
)
from tests.support.snippets import prose_of


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_their_files(page):
    text = page.read_text(encoding="utf-8")
    assert renewed(text) == text, "python -m tests.support.shown_tables"


def test_the_head_list_of_mini_is_what_was_measured():
    assert HEADS_OF_MINI.read_text() == head_list_of_mini(), "python -m tests.support.shown_tables"
    assert ALLPATH_OF_MINI.read_text() == allpath_of_mini(), "python -m tests.support.shown_tables"


def test_the_quickstart_finds_the_heads_that_the_larger_sample_has_at_its_top():
    path = ROOT / "results/mini/measured_quickstart.json"
    assert load_heads(path, top_k=2) == load_heads(MEASURED_HEADS, top_k=2)
    assert str(Path(read_profile("mini")["head_list"]).parent) in read_json(path)["run"]["argv"]
    page = (ROOT / "docs/getting_started.md").read_text(encoding="utf-8")
    assert f"It captions {read_profile('mini')['attribution_images']} images" in page
    assert f"{read_profile('mini')['report_images']} other images" in page


PICTURE = re.compile(r"!\[[^\]]*\]\(([^)\s]+\.png)\)")
DRAWN_FROM = {
    "measured_captions": "measured",
    "measured_chair_positions": "measured_chair_details",
    "measured_methods_over_recall": "measured_methods",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_picture_has_the_file_that_it_was_drawn_from_beside_it(page):
    for name in PICTURE.findall(page.read_text(encoding="utf-8")):
        picture = page.parent / name
        [source] = picture.parent.glob(f"{DRAWN_FROM.get(picture.stem, picture.stem)}.json*")
        assert picture.is_file(), name
        for path in (picture, source):
            done = subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, check=False)
            assert done.returncode == 1, path


@pytest.mark.parametrize("name", ["README.md", "docs/results.md"])
def test_measured_numbers_in_prose_name_their_key(name):
    """A number in percent or points is measured, the paper's, or 95% of an interval."""
    text = re.sub(r"95%", "", prose_of(ROOT / name))
    unnamed = re.findall(r"[^.\n]*?\d(?:%|(?: percentage)? points)(?!<!-- )[^.\n]*", text)
    assert not [each for each in unnamed if "the rule allows" not in each]


def test_a_key_in_prose_is_followed():
    path = "results/mini/measured_trade_off.json"
    page = f"11%<!-- {path}#greedy/CHAIRi --> +5.0<!-- {path}#points/top_k=2&threshold=0.95/CHAIRi*100 -->"
    assert re.findall(r"(\S+?)<", numbers_renewed(page, ROOT)) == ["14%", "+11.9"]
    with pytest.raises(KeyError, match="0 entries"):
        numbers_renewed(f"1<!-- {path}#points/top_k=7 -->", ROOT)


def test_there_are_such_tables_and_their_files_are_committed():
    files = {found[1] for page in PAGES for found in SHOWN.finditer(page.read_text(encoding="utf-8"))}
    assert "results/mini/measured.json" in files
    for name in {name for name in files if "#" not in name}:
        done = subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT, check=False)
        assert (ROOT / name).is_file() and done.returncode != 0, name
