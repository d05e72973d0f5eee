"""What may stand where a file is expected: the pointer of a large file, a pipe, a device."""

from pathlib import Path

POINTER = b"version https://git-lfs.github.com/spec/"  # how a small file begins that stands for a large one
FETCH = "a Git LFS pointer, not the file itself; get it with `git lfs pull`"


def refuse_pointer(path: Path) -> None:
    """Refuse the pointer that `git clone` without LFS leaves in place of a large file.

    Raises:
        ValueError: a Git LFS pointer; names the file.
    """
    if is_pointer(path):
        raise ValueError(f"{path}: {FETCH}")


def refuse_pipe(path: Path) -> None:
    """Refuse a pipe or a device, from which reading may never end.

    Raises:
        ValueError: it is one; names it.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path}: not a file but a pipe or a device")


def is_pointer(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(len(POINTER)) == POINTER
