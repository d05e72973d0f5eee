"""Folders of a training that count only as a whole: checkpoints, the trained rows, the finished model.

Each gets a manifest last, with the sha256 of all its files, and of the settings that they were made with.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import load_file

from llava_hh.files import flush, read_json, sha256, write_json
from llava_hh.finetuning.head_rows import TunedRows
from llava_hh.identity import digest_of
from llava_hh.parts import drop_parts
from llava_hh.runs import processes

MANIFEST = "manifest.json"
TRAINED_FILE = "trained_rows.safetensors"
LOG_FILE = "log.jsonl"  # of a run, and of a checkpoint: the log up to it
SINCE_LOG = "since_log.json"  # of a checkpoint: what was measured after the last row of the log
OLD_MARK = "complete"  # an empty file, by which earlier versions marked a checkpoint
N_KEPT = 2  # checkpoints: where the last one is damaged, the training goes on from the one before


def write_manifest(folder: Path, settings: str, step: int) -> None:
    """Make a folder count, when all its files are on the disk.

    Args:
        settings: a digest of what decides the weights; step: how many steps they were trained for.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    drop_parts(folder)
    files = dict(_files_of(folder))
    for path in {folder, *files.values(), *(path.parent for path in files.values())}:
        flush(path)
    content = {
        "step": step,
        "settings": settings,
        "processes": processes().count,
        "files": {name: sha256(path) for name, path in files.items()},
    }
    write_json(folder / MANIFEST, {**content, "sha256": digest_of(content)})


def damage_of(folder: Path, settings: str | None, step: int) -> str | None:
    """Why a folder does not count, None where it is whole: the first file that is missing, changed, or of others.

    Files that the manifest does not name decide nothing. `settings` None stands for any.
    """
    try:
        content = read_json(folder / MANIFEST)
    except FileNotFoundError:
        return f"{MANIFEST} is missing: it was not finished"
    except (OSError, ValueError):
        return f"{MANIFEST} is damaged"
    own = content.pop("sha256", None)
    if own != digest_of(content):
        return f"{MANIFEST} is damaged"
    if content["step"] != step:
        return f"it was renamed: its files are those of step {content['step']}"
    if settings is not None and content["settings"] != settings:
        return "it was made with other settings"
    for name, expected in content["files"].items():
        try:
            if sha256(folder / name) != expected:
                return f"{name} is damaged"
        except OSError:
            return f"{name} is missing or cannot be read"
    return None


def _files_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """All files under a folder by their paths in it; sharded states are folders in a checkpoint."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not (path.name.startswith(".") and path.suffix == ".part"):
            yield path.relative_to(folder).as_posix(), path


def last_whole_checkpoint(
    folder: Path, settings: str | None = None, pass_over: Callable[[Path, str], None] = lambda *_: None
) -> Path | None:
    """The whole checkpoint of the most steps; None without one.

    Args:
        settings: as `damage_of`; pass_over: is given each later one, and why it does not count.
    Raises:
        ValueError: a checkpoint of an earlier version; says how to go on.
    """
    for path in own_checkpoints(folder):
        problem = damage_of(path, settings, steps_of(path))
        if problem is None:
            return path
        if not (path / MANIFEST).exists() and (path / OLD_MARK).exists():
            raise ValueError(
                f"{path}: of an earlier version, which did not keep the sha256 of its files; finish the training with "
                f"that version, or delete {folder} to train from the start"
            )
        pass_over(path, problem)
    return None


def own_checkpoints(folder: Path) -> list[Path]:
    """A training's checkpoints, the latest first, by their names; a sync program's copy is none of them."""
    found = (path for path in folder.glob("checkpoint-*") if re.fullmatch("checkpoint-[1-9][0-9]*", path.name))
    return sorted(found, key=steps_of, reverse=True)


def steps_of(checkpoint: Path) -> int:
    """How many steps were done, by the checkpoint's name."""
    return int(checkpoint.name.split("-")[1])


def drop_checkpoint(path: Path) -> None:
    """Delete a checkpoint, its manifest first: what a kill leaves of it must not count."""
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path)


def drop_old_checkpoints(folder: Path) -> None:
    """Delete all but the last checkpoints."""
    for path in own_checkpoints(folder)[N_KEPT:]:
        drop_checkpoint(path)


def drop_checkpoints(folder: Path) -> None:
    """Delete the checkpoints in a folder, and it too if nothing else is left in it."""
    for path in own_checkpoints(folder):
        drop_checkpoint(path)
    with suppress(OSError):
        folder.rmdir()


def load_trained_rows(tuned: dict[str, TunedRows], folder: Path) -> None:
    """Take over the rows that a folder holds.

    Raises:
        ValueError: rows of another shape, type or name than those that are trained.
    """
    file = folder / TRAINED_FILE
    saved = load_file(file)
    if saved.keys() != tuned.keys():
        raise ValueError(f"{file}: rows of other layers than those that are trained; delete {folder}")
    for name, part in tuned.items():
        if (saved[name].shape, saved[name].dtype) != (part.rows.shape, part.rows.dtype):
            raise ValueError(
                f"{file}: {name} has {tuple(saved[name].shape)} of {saved[name].dtype}, expected "
                f"{tuple(part.rows.shape)} of {part.rows.dtype}; delete {folder}"
            )
        with torch.no_grad():
            part.rows.copy_(saved[name])
