"""The processes of one run, as the launcher started them."""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path

from llava_hh.locks import hold

LONGEST = timedelta(days=30)
_numbers = count()  # of the folders that this process has opened; the same in every process of a run


@dataclass(frozen=True)
class Processes:
    """The processes that share the work, and which of them this one is; ranks count from 0."""

    rank: int
    count: int

    @property
    def is_main(self) -> bool:
        """Whether this process writes what all of them made together."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on when all processes are here. Over gloo: the work may take days, and needs no GPU to wait."""
        if self.count > 1:
            from torch import distributed  # scripts that never wait do without torch

            if not distributed.is_initialized():
                distributed.init_process_group("gloo", timeout=LONGEST)
                atexit.register(_leave_group)
            distributed.barrier()

    def gather(self, text: str) -> list[str]:
        """The text of every process, by rank, for all of them."""
        if self.count == 1:
            return [text]
        import torch  # as in `wait`

        self.wait()  # makes the group
        own = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
        torch.distributed.all_gather(sizes, torch.tensor([len(own)]))
        width = int(max(sizes))
        padded = [torch.zeros(width, dtype=torch.uint8) for _ in sizes]
        torch.distributed.all_gather(padded, torch.nn.functional.pad(own, (0, width - len(own))))
        return [part[:size].numpy().tobytes().decode() for part, size in zip(padded, map(int, sizes), strict=True)]

    @contextmanager
    def hold(self, folder: Path) -> Iterator[None]:
        """Hold a folder for all of them: the first process locks it, the others go on when it has.

        They hear of it by the launcher's store, so that a trainer can still make the process group that it needs.

        Raises:
            OSError: another run holds it; only in the first process.
            SystemExit: in the others, for the first one says why.
        """
        if self.count == 1:
            with hold(folder):
                yield
            return
        from torch import distributed

        store, _, _ = next(distributed.rendezvous("env://", self.rank, self.count, timeout=LONGEST))
        key = f"llava_hh: folder {next(_numbers)}"
        if not self.is_main:
            try:
                is_held = store.get(key) == b"held"
            except RuntimeError:  # the first process, which keeps the store, has ended already
                is_held = False
            if not is_held:
                raise SystemExit(2)
            yield
            return
        try:
            with hold(folder):
                store.set(key, "held")
                yield
        except OSError:
            store.set(key, "refused")  # heard by those that still wait
            raise


def _leave_group() -> None:
    """End the threads of the group before Python ends: one that still runs aborts the process, its work done."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


def processes() -> Processes:
    """What the launcher (accelerate launch, torchrun) says of this process; alone without one."""
    return Processes(rank=int(os.environ.get("RANK", 0)), count=int(os.environ.get("WORLD_SIZE", 1)))
