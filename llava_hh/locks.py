"""One run at a time in a folder."""

import fcntl
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

LOCK = ".lock"


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a folder while the block is open; its file .lock says who does.

    The kernel's lock on the open file is what counts, not that the file exists: it goes with its process, however that
    ends. Folders inside may be held by others. Where the file system has no such locks, a warning is all.

    Raises:
        OSError: another process holds it; one line with its id, host, start and command.
    """
    path = folder / LOCK
    file = _locked(path)
    try:
        date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        command = " ".join(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]).split())
        os.ftruncate(file, 0)
        os.write(file, os.fsencode(f"process {os.getpid()} on {platform.node()} since {date} ({command})"))
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # still locked, so nobody else's
        os.close(file)


def _locked(path: Path) -> int:
    """The descriptor of the lock file, locked."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.fsdecode(os.read(file, 4096)) or "a process that has just begun"
            os.close(file)
            raise OSError(f"{path.parent}: in use by {holder}; wait for it or choose another --out") from None
        except OSError as error:
            _warn(error.strerror)
        if _is_at(path, file):
            return file
        os.close(file)  # its holder has just ended and removed it


@cache
def _warn(reason: str) -> None:
    print(f"warning: result folders cannot be locked ({reason}); run only one command at a time", file=sys.stderr)


def _is_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False
