"""Folders of a training that count only when they are complete: checkpoints, the trained rows, the finished model.

Each gets a manifest last, with the sha256 of all its files, and of the settings that they were made with.
"""

import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors.torch import load_file

from llava_hh.files.files import flush, read_json, sha256, write_json
from llava_hh.files.parts import drop_parts
from llava_hh.finetuning.head_rows import TunedRows
from llava_hh.runs.identity import digest_of
from llava_hh.runs.run import processes

MANIFEST = "manifest.json"
TRAINED_FILE = "trained_rows.safetensors"
LOG_FILE = "log.jsonl"  # of a run, and of a checkpoint: the log up to it
SINCE_LOG = "since_log.json"  # of a checkpoint: what was measured after the last row of the log
OLD_MARK = "complete"  # an empty file, by which earlier versions marked a checkpoint
N_KEPT = 2  # checkpoints: if the last one is damaged, the training goes on from the one before


def write_manifest(folder: Path, settings: str, step: int) -> None:
    """Mark a folder as complete, when all its files are on the disk; sharded states are folders in a checkpoint.

    Args:
        settings: a digest of what decides the weights; step: how many steps they were trained for.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    drop_parts(folder)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [path for path in paths if not (path.name.startswith(".") and path.suffix == ".part")]
    for path in {folder, *files, *(path.parent for path in files)}:
        flush(path)
    content = {"step": step, "settings": settings, "processes": processes().count}
    content["files"] = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    write_json(folder / MANIFEST, {**content, "sha256": digest_of(content)})


def damage_of(folder: Path, step: int, digest: Callable[[Path], str] = sha256) -> str | None:
    """Why a folder does not count: the first file that is missing or changed. None if the folder is complete.

    Files that the manifest does not name do not matter.

    Args:
        digest: the sha256 of a file.
    Raises:
        OSError: a file is there and cannot be read, which is no damage: it may be intact.
    """
    try:
        content = _read_manifest(folder)
    except FileNotFoundError:
        return f"{MANIFEST} is missing: it was not finished"
    if content is None:
        return f"{MANIFEST} is damaged"
    if content["step"] != step:
        return f"it was renamed: its files are those of step {content['step']}"
    for name, expected in content["files"].items():
        try:
            with _no_verdict(folder / name):
                if digest(folder / name) != expected:
                    return f"{name} is damaged"
        except FileNotFoundError:
            return f"{name} is missing"
    return None


def refuse_others(folders: Iterable[Path], settings: str) -> None:
    """Check that no folder was made with other settings; unfinished, damaged and missing folders are not checked.

    Raises:
        ValueError: one was.
        OSError: a manifest is there and cannot be read.
    """
    for folder in folders:
        with suppress(FileNotFoundError):
            content = _read_manifest(folder)
            if content and content["settings"] != settings:
                raise ValueError(f"{folder}: made with other settings; choose another --out, or give those settings")


def _read_manifest(folder: Path) -> dict | None:
    """The content of a folder's manifest, None where it is damaged."""
    try:
        with _no_verdict(folder / MANIFEST):
            content = read_json(folder / MANIFEST)
    except ValueError:
        return None
    return content if content.pop("sha256", None) == digest_of(content) else None


@contextmanager
def _no_verdict(file: Path) -> Iterator[None]:
    """Turn errors of reading, other than that the file is missing, into one that says that the file may be intact."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        what = f"cannot be read ({error.strerror}), it may be whole; nothing was deleted"
        raise OSError(f"{file}: {what}. Give the same command again when it can be read") from error


def last_whole_checkpoint(folder: Path, warn: Callable[[str], None] = lambda _: None) -> Path | None:
    """The complete checkpoint of the most steps; None without one.

    Args:
        warn: takes a text about each later checkpoint, which says why it does not count.
    Raises:
        ValueError: a checkpoint of an earlier version; says how to go on.
        OSError: a file is there and cannot be read.
    """
    for path in own_checkpoints(folder):
        problem = damage_of(path, steps_of(path))
        if problem is None:
            return path
        if not (path / MANIFEST).exists() and (path / OLD_MARK).exists():
            what = "of an earlier version, which did not keep the sha256 of its files; finish the training with that"
            raise ValueError(f"{path}: {what} version, or delete {folder} to train from the start")
        warn(f"{path}: passed over, {problem}")
    return None


def own_checkpoints(folder: Path) -> list[Path]:
    """A training's checkpoints, the latest first, by their names; copies that a sync program made are left out."""
    named = (path for path in folder.glob("checkpoint-*") if re.fullmatch("checkpoint-[1-9][0-9]*", path.name))
    return sorted(named, key=steps_of, reverse=True)


def steps_of(checkpoint: Path) -> int:
    """How many steps were done, by the checkpoint's name."""
    return int(checkpoint.name.split("-")[1])


def drop_checkpoint(path: Path) -> None:
    """Delete a checkpoint, its manifest first: a partly deleted one must not count. Of a link, the link alone."""
    if path.is_symlink():
        path.unlink()
        return
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path)


def drop_old_checkpoints(folder: Path, step: int) -> None:
    """Delete all but the last checkpoints of those up to a step; later ones are damaged, and written anew in time."""
    for path in [path for path in own_checkpoints(folder) if steps_of(path) <= step][N_KEPT:]:
        drop_checkpoint(path)


def drop_checkpoints(folder: Path) -> None:
    """Delete the checkpoints in a folder, and it too if nothing else is left in it."""
    for path in own_checkpoints(folder):
        drop_checkpoint(path)
    with suppress(OSError):
        folder.rmdir()


def load_trained_rows(tuned: dict[str, TunedRows], folder: Path) -> None:
    """Load the trained rows of a folder into `tuned`.

    Raises:
        ValueError: rows of another shape, type or name than those that are trained.
    """
    file = folder / TRAINED_FILE
    saved = load_file(file)
    if saved.keys() != tuned.keys():
        raise ValueError(f"{file}: rows of other layers than those that are trained; delete {folder}")
    for name, part in tuned.items():
        given, expected = (f"{tuple(rows.shape)} of {rows.dtype}" for rows in (saved[name], part.rows))
        if given != expected:
            raise ValueError(f"{file}: {name} has {given}, expected {expected}; delete {folder}")
        with torch.no_grad():
            part.rows.copy_(saved[name])
