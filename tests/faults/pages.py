"""Results with a damaged, foreign or odd file among them under `report html`: a page without that part."""

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from llava_hh.scripts import report

from .children import run_to_the_end
from .kills import prepare

READ = (".json", ".jsonl", ".safetensors", ".png")
DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


def run(folder: Path, n: int, seed: int) -> Iterator[tuple[str, str | None]]:
    """One file of a results folder is changed, then the page is written."""
    from tests.support.tiny_results import make_results

    prepare(folder)
    whole, log = folder / "pages" / "whole", folder / "log"
    if not whole.exists():
        made = run_to_the_end(lambda _: make_results(folder / "model", folder / "coco", whole), (), log)
        if made.code:
            raise RuntimeError(made.output)
    for number in range(n):
        rng = random.Random(f"{seed}, report, {number}")
        change, own = rng.choice(CHANGES), folder / "pages" / "own"
        shutil.rmtree(own, ignore_errors=True)
        shutil.copytree(whole, own)
        files = sorted(path for path in own.rglob("*") if path.suffix in READ and path.is_file())
        path = rng.choice([each for each in files if "blocks" not in each.parts])
        change(path, rng)
        ending = run_to_the_end(report.main, ("html", own), log)
        trouble = judge(ending, own)
        yield change.__name__.replace("_", " "), trouble and f"case {number}, {path.relative_to(own)!r}: {trouble}"


def judge(ending, own: Path) -> str | None:
    if ending.code or "Traceback" in ending.output:
        return f"exit {ending.code}: {ending.output[-300:]}"
    page = (own / "report.html").read_text()
    try:
        json.loads(DATA.search(page)[1], parse_constant=lambda word: 1 / 0)
    except (ValueError, ZeroDivisionError):
        return "its data are not JSON for a browser"
    return "nan is shown" if re.search(r">\s*nan\b", page) else None


def cut(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def not_finite(path: Path, rng: random.Random) -> None:
    if path.suffix == ".json":
        numbers = [*re.finditer(r"(?<=[ \[:])-?\d+\.\d+", text := path.read_text())]
        if numbers:
            found = rng.choice(numbers)
            word = rng.choice(("NaN", "Infinity", "-Infinity"))
            path.write_text(text[: found.start()] + word + text[found.end() :])


def another_type(path: Path, rng: random.Random) -> None:
    path.write_text(rng.choice(("[]", "3", "null", '"text"', '{"run": 3}', '{"methods": {"greedy": 3}}', "{}")))


def a_key_gone(path: Path, rng: random.Random) -> None:
    if path.suffix != ".json" or not isinstance(content := json.loads(path.read_text()), dict) or not content:
        return
    inner = content
    while below := [own for value in inner.values() for own in (value if isinstance(value, list) else [value])]:
        below = [own for own in below if isinstance(own, dict) and own]
        if not below or rng.random() < 0.4:
            break
        inner = rng.choice(below)
    inner.pop(rng.choice(sorted(inner)))
    path.write_text(json.dumps(content))


def hostile_text(path: Path, rng: random.Random) -> None:
    if path.suffix == ".json":
        words = [*re.finditer(r'(?<=: ")[a-z]+(?=")', text := path.read_text())]
        if words:
            found = rng.choice(words)
            path.write_text(text[: found.start()] + "</script><script>alert(1)//" + text[found.end() :])


def gone(path: Path, rng: random.Random) -> None:
    path.unlink()


def a_name_of_its_folder(path: Path, rng: random.Random) -> None:
    name = rng.choice((b"caf\xe9", b"a b#c?d%e:f", b"<script>", b"\xe7\x8a\xac", b'"x\n'))
    path.parent.rename(path.parent.with_name(os.fsdecode(name)))


CHANGES: tuple[Callable[[Path, random.Random], None], ...] = (
    cut,
    not_finite,
    another_type,
    a_key_gone,
    hostile_text,
    gone,
    a_name_of_its_folder,
)
