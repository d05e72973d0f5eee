"""A script in a forked child: it can be killed, and is judged by how it ends; torch is imported once for all."""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

POLL_SECONDS = 0.002


@dataclass(frozen=True)
class Ending:
    """How a child ended, and what it printed."""

    code: int  # -9 after a kill
    output: str

    @property
    def error(self) -> str:
        """The line that begins with error, if there is exactly one."""
        found = [line for line in self.output.splitlines() if line.startswith("error")]
        return found[0] if len(found) == 1 else ""


class Child:
    """A script's main in a process group of its own; what it prints goes to a file."""

    def __init__(
        self,
        main: Callable[[Sequence[str]], None],
        flags: Sequence[object],
        log: Path,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.log = log
        self.begun = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            os.environ.update(variables or {})
            _run(main, [str(flag) for flag in flags], log)
        with suppress(OSError):  # it may have done so itself, and ended
            os.setpgid(self.pid, self.pid)

    def ended(self, within: float) -> Ending | None:
        """How it ended; None if it is still alive after so many seconds."""
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return Ending(os.waitstatus_to_exitcode(status), self._output())
            if time.monotonic() - self.begun > within:
                return None
            time.sleep(POLL_SECONDS)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def reap(self) -> None:
        """Forget it if it has ended."""
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)

    def _output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")


def _run(main: Callable[[Sequence[str]], None], flags: list[str], log: Path) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        tqdm.set_lock(threading.RLock())  # its own lock is shared by processes: one killed under it would stop them all
        file = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout = sys.stderr = os.fdopen(file, "w")
        sys.argv = ["script", *flags]
        main(flags)
        code = 0
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # it is at its end
            signal.signal(number, signal.SIG_IGN)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_to_the_end(
    main: Callable,
    flags: Sequence[object],
    log: Path,
    within: float = 120,
    variables: Mapping[str, str] | None = None,
) -> Ending:
    """Run a script; one that is not done in time is killed, and its code is -9."""
    child = Child(main, flags, log, variables)
    ending = child.ended(within)
    if ending is None:
        child.kill()
        return Ending(-9, f"not done after {within:.0f} s")
    return ending
