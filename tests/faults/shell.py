"""Wrappers in odd surroundings: shells, folders, links, variables and paths; they call what they call in plain ones."""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.repository import ROOT
from tests.support.wrappers import OF_PROFILES, calls_in, make_stub

SHELLS = (
    ["sh"],
    ["dash"],
    ["bash"],
    ["bash", "--posix"],
    ["bash", "-u"],
    ["busybox", "sh"],
    ["mksh"],
    ["yash"],
    ["zsh"],
)
ODD = ("a folder", "it's", 'two "words"', "dollar $HOME", "star *", "semi;colon", "café", "-dash", "#hash", "a&b")
VALUES = ("own", "a folder", "star *", "semi;colon", "café", "-dash", "#hash", "a&b", "it's")  # that a profile may have
SURROUNDINGS = {
    "CDPATH": "/tmp:/usr",
    "question": "what?",
    "published_heads": "x",
    "limit": "3",
    "out": "o",
    "split": "s",
}
SURROUNDINGS |= {
    "top_k": "7",
    "LC_ALL": "POSIX",
    "GREP_OPTIONS": "-v",
    "POSIXLY_CORRECT": "1",
    "seed": "1",
    "rest": "x",
}


def run(folder: Path, n: int, seed: int) -> Iterator[tuple[str, str | None]]:
    """A wrapper in a shell, from a folder, maybe by a link, with variables around it, with a profile of odd paths."""
    shells = [shell for shell in SHELLS if shutil.which(shell[0])]
    plain: dict[Path, object] = {}
    for number in range(n):
        rng = random.Random(f"{seed}, wrappers, {number}")
        case, shell, wrapper = folder / f"wrappers_{number:05d}", rng.choice(shells), rng.choice(OF_PROFILES)
        odd = case / rng.choice(ODD)
        odd.mkdir(parents=True)
        if wrapper not in plain:
            plain[wrapper] = calls(["sh"], wrapper, case, case, ROOT, {}, "results/own")
        called = wrapper
        if rng.random() < 0.3:
            called = odd / "link.sh"
            called.symlink_to(wrapper)
        around = dict(rng.sample(sorted(SURROUNDINGS.items()), 3))
        name = rng.choice(VALUES)
        found = calls(shell, called, case, odd, rng.choice([odd, Path("/")]), around, f"results/{name}")
        expected = plain[wrapper]
        if isinstance(expected, list):
            expected = [[word.replace("results/own", f"results/{name}") for word in call] for call in expected]
        wrong = None if found == expected else f"{shell} {called} in {odd.name}: {found} for {expected}"
        yield f"in {' '.join(shell)}", wrong and f"case {number}: {wrong[:600]}"


def calls(
    shell: list[str], wrapper: Path, case: Path, odd: Path, cwd: Path, around: dict[str, str], result_path: str
) -> object:
    """The calls of a wrapper, or what it said; the stub that writes them down lies in the folder of the case."""
    profile, log = odd / "own.sh", case / "calls"
    profile.write_text(f'inherit=mini\nresult_path="{result_path}"\n', encoding="utf-8")
    log.unlink(missing_ok=True)
    environment = {**os.environ, **around, "PYTHON": str(make_stub(case / "python", log)), "PROFILE": str(profile)}
    done = subprocess.run([*shell, wrapper], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode or not log.exists():
        return f"exit {done.returncode}: {done.stderr[-300:]}"
    return [[word.replace(str(profile), "PROFILE") for word in call] for call in calls_in(log)]
