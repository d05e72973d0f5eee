"""Parts: files and folders under a name that nobody can guess, until they are whole and are renamed."""

import fcntl
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from stat import S_IMODE

HOST = platform.node().replace(".", "-")
A_DAY = 24 * 3600  # seconds
_NAME = re.compile(rf"\..+\.{re.escape(HOST)}\.(?P<process>\d+)(?P<random>\.[0-9a-f]{{16}})?\.part")


@contextmanager
def part_of(path: Path) -> Iterator[Path]:
    """A new empty file beside `path`, to be written and renamed while the block is open; deleted at its end if not.

    The file is locked (flock) meanwhile, which tells `drop_parts` that its process lives, in whatever container.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        part, file = path.with_name(f".{path.name}.{HOST}.{os.getpid()}.{secrets.token_hex(8)}.part"), None
        try:  # from before the file is made on: a signal may come at any line
            file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file).st_nlink:  # else another process took it for abandoned before it was locked
                yield part
                return
        finally:
            try:
                _delete(part)
            finally:
                _delete(part)  # where a signal came in the first
                if file is not None:
                    os.close(file)


def _delete(part: Path) -> None:
    with suppress(OSError):
        part.unlink()


@contextmanager
def folder_part_of(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, to be filled; at the end of the block it is renamed, or deleted after an error.

    What killed processes left beside `path` is deleted first.

    Raises:
        FileExistsError: `path` is there.
        OSError: the folder cannot be written.
    """
    if os.path.lexists(path):
        raise FileExistsError(f"{path}: is there already; choose another folder or delete it")
    drop_parts(path.parent)
    with part_of(path) as part:
        folder = part.with_suffix(".folder")
        try:
            folder.mkdir()
            yield folder
            for file in folder.rglob("*"):
                if file.is_file() and not file.is_symlink():
                    share(file, part.stat().st_mode)
            folder.rename(path)
        finally:
            try:
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                shutil.rmtree(folder, ignore_errors=True)  # where a signal came in the first


def share(file: Path, mode: int) -> None:
    """Give a file the mode of one that `open` made: safetensors makes its files for their owner alone.

    Args:
        mode: as `stat` has it; 0o644 where the umask is 022.
    """
    if S_IMODE(file.stat().st_mode) != S_IMODE(mode):  # some file systems have one mode for all files
        file.chmod(S_IMODE(mode))


def drop_parts(folder: Path) -> None:
    """Delete the parts in a folder that killed processes of this machine left."""
    for part in folder.glob(".*.part"):
        if not (name := _NAME.fullmatch(part.name)):
            continue
        with suppress(OSError), ExitStack() as stack:
            file = os.open(part, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            stack.callback(os.close, file)
            if not name["random"]:  # of an earlier version, which did not lock what it wrote
                with suppress(ProcessLookupError):
                    os.kill(int(name["process"]), 0)
                    continue  # it lives
            if _is_abandoned(file):
                shutil.rmtree(part.with_suffix(".folder"), ignore_errors=True)
                part.unlink()


def _is_abandoned(file: int) -> bool:
    """Whether nobody holds an open file; without locks, whether it has been left alone for a day."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return time.time() - os.fstat(file).st_mtime > A_DAY
    return True
