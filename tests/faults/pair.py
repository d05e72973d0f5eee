"""A script in two processes that make one run."""

import os
import random
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llava_hh.files import processes
from llava_hh.runs import blocks
from llava_hh.runs import run as runs

from .children import Child, Ending, run_to_the_end
from .kills import contents, difference
from .material import Script
from .state import files

WITHIN = 60.0  # seconds, for a rank that is left alone to end
GRACE = 3.0  # seconds that a launcher leaves the others after one has failed


@dataclass
class Pair:
    """A script in two processes; a case changes the flags, variables or working folder of the second."""

    script: Script
    folder: Path
    rng: random.Random
    out: Path
    expected: dict[str, str]
    seconds: float
    flags: list[list[object]] = field(default_factory=list)
    variables: list[dict[str, str]] = field(default_factory=list)
    homes: list[Path | None] = field(default_factory=lambda: [None, None])
    before: list[Callable[[], None]] = field(default_factory=list)  # in each process

    def __post_init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "faults"}
        self.variables = [{**shared, "RANK": str(rank)} for rank in range(2)]
        self.flags = [[*self.script.flags, "--out", self.out] for _ in range(2)]
        shutil.rmtree(self.out, ignore_errors=True)

    def log(self, rank: int) -> Path:
        return self.folder / f"log_{rank}"

    def start(self, rank: int) -> Child:
        launcher = os.getpid()

        def main(flags: Sequence[str]) -> None:
            processes.LAUNCHER = launcher
            runs.SHARED_WITHIN, blocks.PATIENCE, processes.LOOK_EVERY = 1.0, 1.0, 0.3
            if self.homes[rank]:
                os.chdir(self.homes[rank])
            for prepared in self.before:
                prepared()
            self.script.main(flags)

        return Child(main, self.flags[rank], self.log(rank), self.variables[rank])

    def run(self) -> list[Ending]:
        """Both to their end; as a launcher does, the other is ended soon after one has failed."""
        ranks: list[Child] = [self.start(rank) for rank in range(2)]
        endings: list[Ending | None] = [None, None]
        failed, begun = None, time.monotonic()
        while None in endings:
            for place, rank in enumerate(ranks):
                if endings[place] is None and (ending := rank.ended(within=0)):
                    endings[place] = ending
                    failed = failed or (time.monotonic() if ending.code else None)
            if (failed and time.monotonic() - failed > GRACE) or time.monotonic() - begun > WITHIN:
                for place, rank in enumerate(ranks):
                    if endings[place] is None:
                        rank.kill()
                        endings[place] = Ending(-9, self.log(place).read_text())
            time.sleep(0.01)
        return endings

    def merged(self) -> str | None:
        """A file of results that is there though nothing should have been merged."""
        for out in self.folder.glob("**/out*"):
            for name in files(out):
                if "blocks/" not in name and not name.startswith("greedy/"):
                    return f"{name} was merged"
        return None

    def resumed(self) -> str | None:
        """Whether one process goes on to the same files."""
        done = {name: content for name, content in files(self.out).items() if "blocks/" in name}
        ending = run_to_the_end(self.script.main, (*self.script.flags, "--out", self.out), self.folder / "log")
        if ending.code:
            return f"did not go on: exit {ending.code}: {ending.output[-300:]}"
        now = files(self.out)
        if lost := [name for name, content in done.items() if name.endswith(".json") and now.get(name) != content]:
            return f"{lost[0]} was made anew"
        return difference(self.expected, contents(self.out, self.script))
