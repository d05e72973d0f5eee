"""What a run was made of changes between two runs of the same command: never old or mixed numbers without an error."""

import itertools
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from .case import Case, Change
from .changes import CHANGES
from .children import run_to_the_end
from .kills import MARK, contents, difference, prepare, undisturbed
from .material import Script, scripts

FREE = ("run.json", "ground_truth.json")  # may be written anew by a run that is refused
INPUTS = ("model", "polled", "coco", "base", "tuning", "captions", "heads.json")


def run(folder: Path, n: int, seed: int) -> Iterator[tuple[str, str | None]]:
    """One case a pair of a script and a change, in an order that the seed draws."""
    prepare(folder)
    every = scripts(folder)
    [whole] = [script for script in every if script.name == "attribute"]
    every.append(Script("attribute --ablation mean", whole.main, (*whole.flags, "--ablation", "mean")))
    pairs = [(script, change) for change in CHANGES for script in every if change.applies(script)]
    random.Random(seed).shuffle(pairs)
    finished: dict[str, Path] = {}
    tried = 0
    for number, (script, change) in enumerate(itertools.cycle(pairs)):
        if tried >= n or (not tried and number > 3 * len(pairs)):
            return
        rng = random.Random(f"{seed}, {number}")
        trouble = judge(folder, script, change, rng, finished)
        if trouble is not False:
            tried += 1
            yield change.name, trouble and f"{script.name}, case {number}: {trouble}"


def judge(
    folder: Path, script: Script, change: Change, rng: random.Random, finished: dict[str, Path]
) -> str | None | bool:
    """Make one change between two runs; None, or what is wrong, or False where the change cannot be made."""
    out, log = folder / "out", folder / "log"
    if script.name not in finished:
        undisturbed(script, out, log)
        finished[script.name] = folder / "finished" / script.name
        shutil.copytree(out, finished[script.name])
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(finished[script.name], out)
    kept = folder / "kept"
    keep(folder, kept)
    case = Case(folder, script, [*script.flags], out, rng)
    try:
        if rng.random() < 0.5:
            stop(case)
        if change.make(case) is False:
            return False
        return compare(case, change, log)
    finally:
        keep(kept, folder, back=True)
        shutil.rmtree(kept)


def keep(source: Path, target: Path, back: bool = False) -> None:
    """Copy the inputs of all scripts."""
    for name in INPUTS:
        if back:
            shutil.rmtree(target / name, ignore_errors=True)
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
        else:
            shutil.copy2(source / name, target / name)


def stop(case: Case) -> None:
    """Make a finished folder look as if the run had been stopped: without some blocks and without what follows."""
    case.stopped = True
    blocks = case.blocks()
    for block in case.rng.sample(blocks, case.rng.randint(1, max(1, len(blocks) - 1))) if blocks else ():
        block.unlink()
        block.with_suffix(".safetensors").unlink(missing_ok=True)
    for path in case.out.iterdir():
        if path.is_file() and path.name not in (*FREE, "log.jsonl"):
            path.unlink()
    if (case.out / "model").exists():
        shutil.rmtree(case.out / "model")


def compare(case: Case, change: Change, log: Path) -> str | None:
    """Give the command again: what a fresh folder gets, or one line that names what changed, and nothing lost."""
    before = files(case.out)
    script = Script(case.script.name, case.script.main, tuple(case.flags), case.script.unlike)
    ending = run_to_the_end(script.main, (*script.flags, "--out", case.out), log, variables=case.variables)
    if "Traceback" in ending.output:
        return f"a traceback: {ending.output[-300:]}"
    after = files(case.out)
    if ending.code:
        if ending.code != 2 or not ending.error:
            return f"exit {ending.code}: {ending.output[-300:]}"
        if not change.named:
            return f"refused: {ending.error}"
        if not any(word in ending.error for word in change.named):
            return f"the error names none of {', '.join(change.named)}: {ending.error}"
        lost = [name for name, content in before.items() if after.get(name) != content]
        return f"refused, and {lost[0]} is lost or other" if lost else None
    if lost := [name for name in before if "blocks/" in name and name not in after]:
        return f"{lost[0]} is lost"
    fresh = case.folder / "fresh"
    try:
        expected = undisturbed(script, fresh, log, case.variables)[0]
    except RuntimeError as error:
        return f"exit 0, where a fresh folder is refused: {error}"
    found = contents(case.out, script)
    if change.blocks_differ:
        expected, found = (
            {name: own for name, own in each.items() if "blocks/" not in name} for each in (expected, found)
        )
    if change.folders_stay:
        folders = {name.split("/")[0] for name in expected}
        others = {name for name in found if name.split("/")[0] not in folders}
        if changed := [name for name in others & before.keys() if after[name] != before[name]]:
            return f"{changed[0]}, of another method, has other bytes"
        found = {name: own for name, own in found.items() if name not in others}
    trouble = difference(expected, found)
    return trouble and f"{trouble} than a fresh folder gets, exit 0"


def files(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and not path.name.endswith((*FREE, MARK)) and not path.name.startswith(".")
    }
