"""Two processes of one run that differ, do not share their folder, or lose one another: nothing wrong is merged."""

import ctypes
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from llava_hh.runs import blocks

from .case import spoil
from .children import Child, Ending
from .kills import contents, difference, prepare, undisturbed
from .material import scripts
from .pair import WITHIN, Pair

NAMES = ("caption", "attribute", "attention_bias", "record_words", "removal")
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: ranks whose launcher is dead become children of this process


def run(folder: Path, n: int, seed: int) -> Iterator[tuple[str, str | None]]:
    prepare(folder)
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    if not (folder / "spoilt").exists():
        shutil.copytree(folder / "model", folder / "spoilt")
        spoil(folder / "spoilt", random.Random(0))
    every = [script for script in scripts(folder) if script.name in NAMES]
    expected: dict[str, tuple[dict[str, str], float]] = {}
    own = folder / "ranks"
    for number in range(n):
        rng = random.Random(f"{seed}, {number}")
        case = CASES[number % len(CASES)]
        script = rng.choice(every)
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir()
        if script.name not in expected:
            expected[script.name] = undisturbed(script, own / "out", own / "log")
        trouble = case(Pair(script, own, rng, own / "out", *expected[script.name]))
        yield case.__name__.replace("_", " "), trouble and f"{script.name}, case {number}: {trouble}"


def equal(pair: Pair) -> str | None:
    for rank, ending in enumerate(pair.run()):
        if ending.code:
            return f"process {rank}: exit {ending.code}: {ending.output[-300:]}"
    return difference(pair.expected, contents(pair.out, pair.script))


def other_settings(pair: Pair) -> str | None:
    """One flag, variable or file of the second process is another."""
    name = pair.rng.choice([name for name in NAMED if name in ("DTYPE", *pair.script.flags)])
    if name == "DTYPE":
        pair.variables[1]["DTYPE"] = "bfloat16"
    elif name == "--split":
        pair.flags[1] += ["--seed", 7]
    elif name == "--annotations":
        pair.flags[1] += ["--prompt", "describe the cat"]
    else:
        place = pair.flags[1].index(name) + 1
        pair.flags[1][place] = _other_value(pair, name, pair.flags[1][place])
    for rank, ending in enumerate(pair.run()):
        if ending.code != 2 or "Traceback" in ending.output or not ending.error:
            return f"{name}: process {rank}: exit {ending.code}: {ending.output[-300:]}"
        if not any(word in ending.error for word in NAMED[name]):
            return f"{name}: process {rank} names none of {', '.join(NAMED[name])}: {ending.error}"
    return pair.merged()


NAMED = {  # what an error may call a difference, by the flag that the script has to have
    "DTYPE": ("dtype",),
    "--split": ("draw", "seed"),
    "--annotations": ("prompt",),
    "--batch-size": ("batch_size",),
    "--max-new-tokens": ("max_new_tokens",),
    "--model": ("model.safetensors", "another model"),
    "--limit": ("limit", "draw"),
    "--heads": ("heads", "interventions"),
}


def _other_value(pair: Pair, name: str, value: object) -> object:
    if name == "--model":
        return pair.folder.parent / "spoilt"
    if name == "--heads":
        other = pair.folder / "heads.json"
        other.write_text('{"hal_heads": [[0, 1], [1, 2], [2, 3]], "non_hal_heads": [[0, 0], [1, 1], [3, 2]]}')
        return other
    return value + pair.rng.choice((-1, 1))


def other_folders(pair: Pair) -> str | None:
    """Each process has a result folder of its own, by another name or by the same name elsewhere."""
    if pair.rng.random() < 0.5:
        pair.flags[1][-1] = pair.folder / "out_of_1"
    else:
        pair.homes = [pair.folder / "home_0", pair.folder / "home_1"]
        for rank, home in enumerate(pair.homes):
            home.mkdir()
            pair.flags[rank][-1] = "out"
    endings = pair.run()
    if any(ending.code == 0 for ending in endings):
        return f"exit {[ending.code for ending in endings]}: {endings[0].output[-300:]}"
    if not any(ending.code == 2 and ending.error for ending in endings):
        return f"no line says why: {endings[0].output[-200:]} {endings[1].output[-200:]}"
    return pair.merged()


WRONG = [
    {"RANK": "0"},
    {"WORLD_SIZE": "2"},
    {"RANK": "2", "WORLD_SIZE": "2"},
    {"RANK": "0", "WORLD_SIZE": "0"},
    {"RANK": "x", "WORLD_SIZE": "2"},
    {"RANK": "0", "WORLD_SIZE": "two"},
    {"RANK": "-1", "WORLD_SIZE": "2"},
    {"RANK": "0", "WORLD_SIZE": "2.0"},
    {"RANK": "0", "WORLD_SIZE": "2"},
    {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"},
    {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"},
]


def wrong_variables(pair: Pair) -> str | None:
    wrong = pair.rng.choice(WRONG)
    pair.variables[0] = wrong
    rank = pair.start(0)
    ending = rank.ended(WITHIN)
    if ending is None:
        rank.kill()
        return f"{wrong}: still runs after {WITHIN:.0f} s"
    if ending.code != 2 or "Traceback" in ending.output or not ending.error:
        return f"{wrong}: exit {ending.code}: {ending.output[-300:]}"
    return pair.merged()


def a_rank_killed(pair: Pair) -> str | None:
    """The launcher of the other ends soon after; then one process goes on."""
    return _killed(pair, lambda launcher, ranks: os.kill(pair.rng.choice(ranks), signal.SIGKILL))


def the_launcher_killed(pair: Pair) -> str | None:
    return _killed(pair, lambda launcher, ranks: launcher.kill())


def _killed(pair: Pair, kill: Callable[[Child, list[int]], None]) -> str | None:
    ids = pair.folder / "ids"

    def launch(_: Sequence[str]) -> None:
        ranks = [pair.start(rank) for rank in range(2)]
        ids.with_suffix(".part").write_text(" ".join(str(rank.pid) for rank in ranks))
        ids.with_suffix(".part").rename(ids)
        endings: list[Ending | None] = [None, None]
        while all(ending is None or ending.code == 0 for ending in endings) and None in endings:
            for place, rank in enumerate(ranks):
                endings[place] = endings[place] or rank.ended(within=0)
            time.sleep(0.01)

    launcher = Child(launch, (), pair.log(2))
    while not ids.exists():
        time.sleep(0.01)
    ranks = [int(number) for number in ids.read_text().split()]
    time.sleep(pair.rng.uniform(0, 1.5 * pair.seconds))
    with suppress(ProcessLookupError):  # it has ended
        kill(launcher, ranks)
    begun = time.monotonic()
    alive = [*ranks]
    while alive and time.monotonic() - begun < WITHIN:
        launcher.reap()
        alive = [rank for rank in alive if _lives(rank)]
        time.sleep(0.02)
    for rank in alive:
        os.kill(rank, signal.SIGKILL)
    if alive:
        return f"a process still ran {WITHIN:.0f} s after: {pair.log(ranks.index(alive[0])).read_text()[-300:]}"
    output = "".join(pair.log(rank).read_text() for rank in range(2))
    if "Traceback" in output:
        return f"a traceback: {output[-300:]}"
    return pair.resumed()


def _lives(pid: int) -> bool:
    """Whether a process that may be a child of this one, its launcher gone, still runs."""
    try:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False
    except ChildProcessError:
        pass
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def a_block_gone_before_the_merge(pair: Pair) -> str | None:
    whole = blocks.Run._see_all_blocks

    def see(run: blocks.Run) -> None:
        if len(run._block_files("json")) > 1:
            run._block_files("json")[1].unlink()
        whole(run)

    def plant() -> None:
        blocks.Run._see_all_blocks = see

    pair.before.append(plant)
    endings = pair.run()
    if not (endings[0].code == 2 and "00001.json: not there" in endings[0].error and endings[1].code):
        return f"exit {[ending.code for ending in endings]}: {endings[0].output[-300:]}"
    return pair.merged() or pair.resumed()


CASES = [
    equal,
    other_settings,
    other_folders,
    wrong_variables,
    a_rank_killed,
    other_settings,
    the_launcher_killed,
    a_block_gone_before_the_merge,
]
