"""Files of others in and around a result folder, under names of a run: none is changed, followed or deleted."""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from .children import run_to_the_end
from .kills import prepare
from .material import scripts

NAMES = (
    "thesis.txt",
    "IMG_0001.jpg",
    "00001 (1).json",
    "20240101.jpg",
    "notes.md",
    "run.json",
    ".lock",
    "summary.json",
)
NAMES += (
    "captions.jsonl",
    "report.html",
    ".run.json.host.1.part",
    ".shared-0",
    "blocks/00000.json",
    "blocks/x.safetensors",
)
CONTENTS = (b"mine", b'{"mine": 1}', b"[]", b"", b"\x00\xff")


def run(folder: Path, n: int, seed: int) -> Iterator[tuple[str, str | None]]:
    """A foreign file or link before a run; and what became of it."""
    prepare(folder)
    every = [script for script in scripts(folder) if script.name in ("caption", "attribute", "pope", "record_words")]
    for number in range(n):
        rng = random.Random(f"{seed}, foreign, {number}")
        script, place = rng.choice(every), rng.choice(PLACES)
        out, outside, log = folder / "out", folder / "outside", folder / "log"
        for path in (out, outside):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        place(out, outside, rng)
        before = contents(out, outside)
        ending = run_to_the_end(script.main, (*script.flags, "--out", out), log)
        yield place.__name__.replace("_", " "), trouble(ending, before, contents(out, outside), number, script.name)


def contents(*folders: Path) -> dict[Path, object]:
    """Every file, link and folder, with what it holds."""
    found: dict[Path, object] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            found[path] = os.readlink(path) if path.is_symlink() else path.is_dir() or path.read_bytes()
    return found


def trouble(ending, before: dict, after: dict, number: int, script: str) -> str | None:
    if ending.code not in (0, 2) or "Traceback" in ending.output or (ending.code and not ending.error):
        return f"case {number}, {script}: exit {ending.code}: {ending.output[-300:]}"
    if changed := [path for path, content in before.items() if after.get(path) != content]:
        return f"case {number}, {script}: {changed[0]} was changed, exit {ending.code}"
    return None


def a_file(out: Path, outside: Path, rng: random.Random) -> None:
    path = out / rng.choice(NAMES)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(rng.choice(CONTENTS))


def a_link_to_a_file(out: Path, outside: Path, rng: random.Random) -> None:
    (outside / "theirs").write_bytes(rng.choice(CONTENTS))
    path = out / rng.choice(NAMES)
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(outside / "theirs")


def a_hard_link(out: Path, outside: Path, rng: random.Random) -> None:
    (outside / "theirs").write_bytes(rng.choice(CONTENTS))
    path = out / rng.choice(NAMES)
    path.parent.mkdir(exist_ok=True)
    os.link(outside / "theirs", path)


def a_folder(out: Path, outside: Path, rng: random.Random) -> None:
    path = out / rng.choice(NAMES)
    path.mkdir(parents=True)
    (path / "theirs").write_bytes(rng.choice(CONTENTS))


def a_link_to_nowhere(out: Path, outside: Path, rng: random.Random) -> None:
    path = out / rng.choice(NAMES)
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(outside / "gone")


Place = Callable[[Path, Path, random.Random], None]
PLACES: tuple[Place, ...] = (a_file, a_link_to_a_file, a_hard_link, a_folder, a_link_to_nowhere)
