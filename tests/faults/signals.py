"""Scripts stopped by Ctrl-C, SIGTERM or SIGHUP at random moments: one line, 128 + the signal, and it goes on."""

import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from llava_hh.files.signals import ending_well

from .children import Child, Ending, run_to_the_end
from .kills import contents, difference, prepare, undisturbed
from .material import scripts

ADVICE = ("; the same command goes on", "; give the same command again")
SOON = 20.0  # seconds from a signal to the end, on a busy machine
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(folder: Path, n: int, seed: int) -> Iterator[tuple[str, str | None]]:
    """One case for each signal that finds a script alive, the scripts in turns."""
    rng, out, log = random.Random(seed), folder / "out", folder / "log"
    prepare(folder)
    references: dict[str, tuple[dict[str, str], float]] = {}
    done = 0
    while done < n:
        for script in scripts(folder):
            if done >= n:
                return
            if script.name not in references:
                references[script.name] = undisturbed(script, out, log)
            expected, seconds = references[script.name]
            shutil.rmtree(out, ignore_errors=True)
            number, flags = rng.choice(NUMBERS), (*script.flags, "--out", out)
            signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)  # until the child has its handlers
            child = Child(as_a_program(script.main), flags, log)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)
            ending = child.ended(within=rng.uniform(0.05, seconds))
            if ending is not None:
                continue
            child.signal(number)
            trouble = judge(ended_soon(child), number, out)
            if trouble is None:
                again = run_to_the_end(script.main, flags, log)
                went_on = again.code == 0 and "Traceback" not in again.output
                trouble = (
                    difference(expected, contents(out, script)) if went_on else f"did not go on: {again.output[-300:]}"
                )
            done += 1
            yield script.name, trouble


def as_a_program(main: Callable[[Sequence[str]], None]) -> Callable[[Sequence[str]], None]:
    """A verb's main as the command `llava-hh` runs it."""

    def program(flags: Sequence[str]) -> None:
        with ending_well():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)
            main(flags)

    return program


def ended_soon(child: Child) -> Ending | None:
    """How it ended within SOON seconds of now; None, and it is killed, if it goes on."""
    ending = child.ended(within=time.monotonic() - child.begun + SOON)
    if ending is None:
        child.kill()
    return ending


def judge(ending: Ending | None, number: int, out: Path) -> str | None:
    """What is wrong with how it ended."""
    if ending is None:
        return f"signal {number}: went on for {SOON:.0f} s"
    if ending.code == 0:  # it was done just then
        return None
    lines = [line for line in ending.output.splitlines() if line.startswith(("stopped", "error", "Traceback"))]
    if ending.code != 128 + number or len(lines) != 1 or not lines[0].endswith(ADVICE):
        return f"signal {number}: exit {ending.code}, {ending.output[-300:]}"
    left = [path.name for path in out.rglob("*") if path.name == ".lock" or path.suffix == ".part"]
    return f"signal {number}: left {left}" if left else None
