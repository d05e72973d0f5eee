"""The processes of one run, as the launcher started them."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import count
from pathlib import Path
from threading import Thread, Timer
from typing import Any

import llava_hh
from llava_hh.files.locks import hold

LAUNCHER = llava_hh.STARTED_BY
LONGEST = timedelta(days=30)
LARGEST_VALUE = 1 << 20  # characters; the store takes 8 MiB at once
LOOK_EVERY = 5.0  # seconds between checks that the launcher lives
SAY_AFTER = 20.0  # seconds of waiting after which a line says so
_numbers = count()  # of the exchanges so far; the same in every process of a run


@dataclass(frozen=True)
class Processes:
    """How many processes share the work, and the rank of this one, from 0."""

    rank: int
    count: int

    @property
    def is_main(self) -> bool:
        """Whether this process writes what all of them made together."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on when all processes are here; the work of the others may take days.

        A process that dies is noticed by the launcher, which has to end the others.
        """
        self.exchange("")

    def exchange(self, text: str) -> list[str]:
        """The text of every process, by rank, for all of them.

        It goes through the launcher's store, so that a trainer can still make the process group that it needs.
        """
        if self.count == 1:
            return [text]
        with self._saying():
            store, key = _launchers_store(self.rank, self.count), f"llava_hh: exchange {next(_numbers)}"
            parts = [text[first : first + LARGEST_VALUE] for first in range(0, len(text), LARGEST_VALUE)]
            for number, part in enumerate(parts):
                store.set(f"{key} {self.rank} part {number}", part)
            store.set(f"{key} {self.rank}", str(len(parts)))
            counts = [int(store.get(f"{key} {rank}")) for rank in range(self.count)]
        texts = [
            "".join(store.get(f"{key} {rank} part {number}").decode() for number in range(n_parts))
            for rank, n_parts in enumerate(counts)
        ]
        store.set(f"{key} {self.rank} heard", "")
        if self.is_main:  # the store may live in this process, and end with it
            for rank in range(self.count):
                store.get(f"{key} {rank} heard")
            for rank, n_parts in enumerate(counts):
                for number in range(n_parts):
                    store.delete_key(f"{key} {rank} part {number}")
        return texts

    @contextmanager
    def _saying(self) -> Iterator[None]:
        """Print a line where the context stays open for long."""
        where = f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"
        text = f"process {self.rank} of {self.count} waits for the others at {where}"
        timer = Timer(SAY_AFTER, print, (text,), {"file": sys.stderr, "flush": True})
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def first(self, work: Callable[[], object]) -> None:
        """Do some work in the first process; the others go on when it is done.

        Raises:
            Exception: what `work` raises; only in the first process.
            SystemExit: in the others, because the first one says why.
        """
        failure = None
        if self.is_main:
            try:
                work()
            except Exception as error:
                failure = error
        try:
            answer = self.exchange("failed" if failure else "done")[0]
        except RuntimeError:
            if self.is_main:
                raise
            raise SystemExit(2) from None  # the first process has ended, and the store with it
        if answer == "failed":
            raise failure or SystemExit(2)

    @contextmanager
    def hold(self, folder: Path) -> Iterator[None]:
        """Hold a folder for all of them: the first process locks it, the others go on when it has.

        Raises:
            OSError: another run holds it; only in the first process.
            SystemExit: in the others, because the first one says why.
        """
        with ExitStack() as stack:
            self.first(lambda: stack.enter_context(hold(folder)))
            yield


def processes() -> Processes:
    """What the launcher (accelerate launch, torchrun) says of this process; alone without one.

    Raises:
        ValueError: a rank without the number of processes, or numbers that do not fit together.
    """
    rank, count = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    if not rank + count:
        return Processes(0, 1)
    if not re.fullmatch("[0-9]+ [0-9]+", f"{rank} {count}") or int(rank) >= int(count):
        expected = "expected both, as a launcher sets them: a rank from 0 to WORLD_SIZE - 1; unset both for one process"
        raise ValueError(f"RANK={rank} WORLD_SIZE={count}: {expected}")
    team = Processes(int(rank), int(count))
    if team.count > 1 and "TORCHELASTIC_RUN_ID" in os.environ:  # else the parent may be a shell
        _end_with_launcher()
    return team


@cache
def _launchers_store(rank: int, count: int) -> Any:
    from torch import distributed

    return next(distributed.rendezvous("env://", rank, count, timeout=LONGEST))[0]


@cache
def _end_with_launcher() -> None:
    """End this process soon after the launcher that started it is gone: the others may have gone with it.

    A rank that waits for a dead one would hold its folder for ever.
    """

    def watch() -> None:
        while os.getppid() == LAUNCHER:
            time.sleep(LOOK_EVERY)
        text = f"error: the launcher (process {LAUNCHER}) is gone; give the same command again"
        print(text, file=sys.stderr, flush=True)
        os._exit(1)

    Thread(target=watch, daemon=True).start()
