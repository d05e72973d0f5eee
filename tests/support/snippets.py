"""README and docs as a reader sees them: blocks of code, commands, headings and links."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.repository import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"(?:^<!-- not run: ([^\n]+) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STEP = re.compile(r"^# (\d+)\. (.*?)(?: -> (\S+))?\n(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its code, and what the comment above it says why no test runs it, or nothing."""

    language: str
    code: str
    not_run: str


def blocks_of(page: Path) -> list[Block]:
    found = FENCE.finditer(page.read_text(encoding="utf-8"))
    return [Block(language, code, why or "") for why, language, code in (each.groups() for each in found)]


def commands_in(code: str) -> Iterator[list[str]]:
    """The words of each command of a block of sh, one a line but for lines that go on; comments are left out."""
    for line in code.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def first_steps() -> list[tuple[str, str, str, str]]:
    """Number, meaning, file and command of each numbered step of docs/getting_started.md."""
    page = ROOT / "docs/getting_started.md"
    return STEP.findall("".join(block.code for block in blocks_of(page) if block.language == "sh"))


def prose_of(page: Path) -> str:
    """The page without blocks of code, generated parts, tables and inline code."""
    text = FENCE.sub("", re.sub(r"<!-- made of .*?<!-- end -->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL))
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^\|.*$", "", text, flags=re.MULTILINE))


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text, anchors = FENCE.sub("", page.read_text(encoding="utf-8")), set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = 0
        while (named := f"{anchor}-{number}" if number else anchor) in anchors:
            number += 1
        anchors.add(named)
    return anchors
