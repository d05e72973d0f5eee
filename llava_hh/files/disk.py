"""Room on disks, before large files are written."""

import os
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path


def in_bytes(size: float) -> str:
    """A number of bytes in words: "14.1 GB", "92 MB", "340 kB"."""
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def refuse_full(needed: Mapping[Path, float], advice: str = "choose a folder on another disk") -> None:
    """Check that disks have room for what is about to be written.

    Args:
        needed: bytes by the file or folder that they go to, which need not be there yet.
        advice: what else than making room helps.
    Raises:
        OSError: a disk has less room; one line that names the folder.
    """
    total: dict[int, float] = defaultdict(float)
    folders: dict[int, Path] = {}
    for path, size in needed.items():
        whole = Path(os.path.abspath(path))
        folder = next(parent for parent in (whole, *whole.parents) if parent.exists())
        disk = folder.stat().st_dev
        total[disk] += size
        folders.setdefault(disk, folder)
    for disk, size in total.items():
        if size > (free := shutil.disk_usage(folders[disk]).free):
            room = f"{in_bytes(size)} are needed there, {in_bytes(free)} are free"
            raise OSError(f"{folders[disk]}: {room}; make room, or {advice}")
