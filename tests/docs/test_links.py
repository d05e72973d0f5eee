"""Every link of README, docs and notebooks leads to a file of the repository, and to a heading that is there."""

import re
import subprocess

import pytest

from tests.support.repository import ROOT
from tests.support.snippets import FENCE, PAGES, anchors_of

LINK = re.compile(r"\]\(([^)\s]+)\)")
OTHERS = [ROOT / folder / "README.md" for folder in ("checkpoints", "dataset", "results")]
OTHERS += [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "notebooks").glob("*.ipynb"))]
TRACKED = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("page", PAGES + OTHERS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert str(target.relative_to(ROOT)) in TRACKED.split("\0"), link
        assert not anchor or anchor in anchors_of(target), link


def test_readme_and_the_site_lead_to_every_page():
    linked = set(LINK.findall(PAGES[0].read_text(encoding="utf-8")))
    assert {f"docs/{page.name}" for page in PAGES[1:]} <= linked
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    assert {page.name for page in PAGES[1:]} <= {*re.findall(r": (\S+\.md)$", nav, re.MULTILINE)}
