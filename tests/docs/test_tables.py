"""The tables of README and docs say what the committed result files say; pictures have theirs beside them."""

import re
import subprocess
from pathlib import Path

import pytest

from llava_hh.command_line.profiles import read_profile
from llava_hh.files.files import read_json
from llava_hh.heads import load_heads
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
    assert f"It captions {read_profile('mini')['attribution_images']} images" in PAGES[0].read_text()


PICTURE = re.compile(r"!\[[^\]]*\]\(([^)\s]+\.png)\)")
DRAWN_FROM = {"measured_captions": "measured", "measured_chair_positions": "measured_chair_details"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_picture_has_the_file_that_it_was_drawn_from_beside_it(page):
    for name in PICTURE.findall(page.read_text(encoding="utf-8")):
        picture = page.parent / name
        source = picture.with_name(f"{DRAWN_FROM.get(picture.stem, picture.stem)}.json")
        assert picture.is_file() and source.is_file(), name
        for path in (picture, source):
            done = subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, check=False)
            assert done.returncode == 1, path


def test_there_are_such_tables_and_their_files_are_committed():
    files = {found[1] for page in PAGES for found in SHOWN.finditer(page.read_text(encoding="utf-8"))}
    assert "results/mini/measured.json" in files
    for name in {name for name in files if "#" not in name}:
        done = subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT, check=False)
        assert (ROOT / name).is_file() and done.returncode != 0, name
