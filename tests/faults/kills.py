"""Scripts killed by signal 9 at random moments and started again: the same files in the end, and nothing lost."""

import hashlib
import json
import random
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from .children import Child, run_to_the_end
from .material import Script, make_material, scripts, steps_before

# what says when and how a run was made; everything else has to be equal
PASSING = {
    "seconds",
    "date",
    "argv",
    "commit",
    "dirty",
    "run",
    "seconds_per_token",
    "relative_time",
    "processes",
    "made",
}
MARK = ".finished.json"  # the end of a file that holds digests of the others, times in them included
MOST_KILLS = 3  # of one run, before it may end


def run(folder: Path, n: int, seed: int) -> Iterator[tuple[str, str | None]]:
    """One case for each kill, the scripts in turns; what went wrong is said by the last kill of a run."""
    rng = random.Random(seed)
    prepare(folder)
    every = scripts(folder)
    references: dict[str, tuple[dict[str, str], float]] = {}
    out, log = folder / "out", folder / "log"
    done = 0
    while done < n:
        for script in every:
            if script.name not in references:
                references[script.name] = undisturbed(script, out, log)
            expected, seconds = references[script.name]
            kills, trouble = kill_and_go_on(script, out, log, seconds, rng)
            if trouble is None:
                trouble = difference(expected, contents(out, script))
            for number in range(kills):
                yield script.name, trouble if number == kills - 1 else None
            done += kills
            if kills == 0 and trouble:
                yield script.name, trouble
            if done >= n:
                break


def prepare(folder: Path) -> None:
    """Material, and the steps that others read, once; each in a child, so that this process stays as it was.

    Raises:
        RuntimeError: a step failed; shows what it printed.
    """
    log = folder / "log"
    if (folder / "captions").exists():
        return
    made = run_to_the_end(lambda _: make_material(folder), (), log)
    if made.code:
        raise RuntimeError(made.output)
    for step in steps_before(folder):
        ending = run_to_the_end(step.main, step.flags, log)
        if ending.code:
            raise RuntimeError(f"{step.name}: {ending.output}")


def undisturbed(
    script: Script, out: Path, log: Path, variables: Mapping[str, str] | None = None
) -> tuple[dict[str, str], float]:
    """What a run leaves that nobody kills, and its seconds.

    Raises:
        RuntimeError: it failed; shows what it printed.
    """
    shutil.rmtree(out, ignore_errors=True)
    child = Child(script.main, (*script.flags, "--out", out), log, variables)
    ending = child.ended(within=120)
    if ending is None or ending.code:
        raise RuntimeError(f"{script.name}: {ending.output if ending else 'not done after 120 s'}")
    return contents(out, script), time.monotonic() - child.begun


def kill_and_go_on(script: Script, out: Path, log: Path, seconds: float, rng: random.Random) -> tuple[int, str | None]:
    """Up to MOST_KILLS kills of one run, then its end: how many found it alive, and what went wrong.

    Files that were complete before a kill have to be as they were.
    """
    shutil.rmtree(out, ignore_errors=True)
    kills = 0
    for _ in range(rng.randint(1, MOST_KILLS)):
        child = Child(script.main, (*script.flags, "--out", out), log)
        ending = child.ended(within=rng.uniform(0, seconds))
        if ending is None:
            child.kill()
            kills += 1
        elif ending.code:
            return kills, f"exit {ending.code} after {kills} kills: {ending.output[-500:]}"
    blocks = {path: path.read_bytes() for path in out.rglob("blocks/*") if not path.name.startswith(".")}
    ending = run_to_the_end(script.main, (*script.flags, "--out", out), log)
    if ending.code or "Traceback" in ending.output:
        return kills, f"exit {ending.code} when it went on: {ending.output[-500:]}"
    if lost := [path for path, content in blocks.items() if path.exists() and path.read_bytes() != content]:
        return kills, f"finished block made anew: {lost[0].relative_to(out)}"
    return kills, None


def contents(out: Path, script: Script) -> dict[str, str]:
    """A digest of every file of a finished run, by its path; without times and what stands for times."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.is_file() and not name.endswith(MARK) and not name.startswith(script.unlike):
            data = path.read_bytes()
            if path.suffix == ".json":
                content = without_times(json.loads(data))
                if path.parent.name == "blocks":
                    content.pop("sha256")  # of its times too
                data = json.dumps(content).encode()
            found[name] = hashlib.sha256(data).hexdigest()
    return found


def without_times(content: object) -> object:
    if isinstance(content, dict):
        return {key: without_times(value) for key, value in content.items() if key not in PASSING}
    return [without_times(value) for value in content] if isinstance(content, list) else content


def difference(expected: dict[str, str], found: dict[str, str]) -> str | None:
    """The first file that is missing, left over or other than expected."""
    for name in sorted({*expected, *found}):
        if name not in found:
            return f"{name} is missing"
        if name not in expected:
            return f"{name} is left over"
        if expected[name] != found[name]:
            return f"{name} has other bytes"
    return None


def run_script(script: Script, out: Path, *more: object) -> dict:
    """Its result, without what stands for times."""
    script.main([str(flag) for flag in (*script.flags, "--out", out, *more)])
    others = ("run.json", "ground_truth.json")
    own = [path for path in sorted(out.glob("*.json")) if path.name not in others and not path.name.endswith(MARK)]
    return {path.name: without_times(json.loads(path.read_text())) for path in own}
