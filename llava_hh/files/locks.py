"""One run at a time in a folder."""

import errno
import fcntl
import os
import platform
import shlex
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

LOCK = ".lock"
_START = b"process "  # of what a lock file says
_FOREIGN = "{}: a link, or not the lock of a run; delete it or choose another --out"


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
        with suppress(OSError):  # on a full disk the lock is without a name
            os.ftruncate(file, 0)
            os.write(file, _START + os.fsencode(f"{os.getpid()} on {platform.node()} since {date} ({command})"))
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # still locked, so nobody else's
        os.close(file)


def _locked(path: Path) -> int:
    """The descriptor of the lock file, locked."""
    while True:
        file = _opened(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.fsdecode(os.read(file, 4096)) or "another process"
            os.close(file)
            raise OSError(f"{path.parent}: in use by {holder}; wait for it or choose another --out") from None
        except OSError as error:
            _warn(error.strerror)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(file)):
                return file
        os.close(file)  # its holder has just ended and removed it


def _opened(path: Path) -> int:
    """The descriptor of the lock file, which is made if it is not there.

    Raises:
        OSError: a link (hard or symbolic), something else than a file, or a file that no run wrote.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise OSError(_FOREIGN.format(path)) from None
        raise
    state = os.fstat(file)
    is_lock = stat.S_ISREG(state.st_mode) and _START.startswith(os.pread(file, len(_START), 0))
    if state.st_nlink > 1 or not is_lock:
        os.close(file)
        raise OSError(_FOREIGN.format(path))
    return file


@cache
def _warn(reason: str) -> None:
    print(f"warning: result folders cannot be locked ({reason}); run only one command at a time", file=sys.stderr)
