"""Licence, notice, citation: that they are whole, and name what the repository carries from others."""

import hashlib
import json
import re
import subprocess

import yaml

from tests.support.repository import ROOT

APACHE = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"  # sha256 of the licence's own text
OURS = ("results/mini", "benchmarks")  # where results of our own runs lie


def test_the_licence_is_apache_2():
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE
    assert 'license="Apache-2.0"' in (ROOT / "setup.py").read_text()


def test_the_notice_names_each_file_of_others():
    """Files that say their source, unless it is a file of this repository; and weights."""
    notice = (ROOT / "NOTICE").read_text()
    listed = subprocess.run(["git", "ls-files", "*.json"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.split():
        content = json.loads((ROOT / name).read_text())
        source = content.get("source", "") if isinstance(content, dict) else ""
        if not source or name.startswith(OURS) or any(folder in source for folder in OURS):
            continue
        is_published_list = re.fullmatch(r"checkpoints/heads/[^/]+\.json", name)
        assert ("checkpoints/heads/*.json" if is_published_list else name) in notice, name
    assert "checkpoints/mini/adapters/" in notice and "SmolLM2-135M-Instruct" in notice
    for path in re.findall(r"^ +Files?: ([\w./-]+\w)", notice, re.MULTILINE):
        assert (ROOT / path).exists(), path


def test_the_paper_is_cited_first():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert list(citation).index("preferred-citation") < list(citation).index("title")
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Yang", "Li", "Cao", "Xu"]
    assert paper["year"] == 2025 and paper["url"].endswith("Bjq4W7P2Us")
    version = re.search(r'version="([\d.]+)"', (ROOT / "setup.py").read_text())
    assert version and citation["version"] == version[1]


def test_links_of_the_pages_at_the_top_lead_somewhere():
    for page in ("CONTRIBUTING.md", "CHANGELOG.md"):
        text = (ROOT / page).read_text()
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (ROOT / link).exists(), f"{page}: {link}"
        for path in re.findall(r"`((?:llava_hh|tests|baselines|docs|bash_scripts)/[\w/.]+\.\w+)`", text):
            assert (ROOT / path).exists(), f"{page}: {path}"
