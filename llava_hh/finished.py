"""Whether a verb's result is there already, made of the same inputs; then it is shown, and no model is loaded."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llava_hh import heads
from llava_hh.files import read_json, write_json
from llava_hh.identity import file_sha256, has_config, identify_checkpoint
from llava_hh.models.loading import Loading
from llava_hh.processes import processes
from llava_hh.runs import provenance
from llava_hh.schema import FINISHED, SCHEMA_VERSION
from llava_hh.settings import digest_of

SHOWN = ("debug", "format", "profile", "run", "argv", "what", "out", "summary")  # what no result depends on


def request_of(verb: str, flags: Mapping[str, Any], tools: Mapping[str, Any] | None = None) -> str:
    """A digest of what a verb is asked for: its flags, their files by content, and how models are loaded.

    Checkpoints count by the files that loading reads; other folders, such as that of the images, by the names, sizes
    and times of change of their files. A flag's text that names a file or a folder counts as it does.

    Args:
        flags: by name, as a parser gives them; tools: what else decides, such as checkpoints that a decoder works with.
    Raises:
        OSError: a file that cannot be read.
    """
    asked = {name: _content(value) for name, value in flags.items() if name not in SHOWN}
    return digest_of({"verb": verb, "flags": asked, "tools": tools, "loading": Loading.from_environment().record()})


def is_finished(result: Path, request: str) -> bool:
    """Whether `mark_finished` noted this request, and its files have not changed since.

    Several processes go on to their run, which finds its blocks finished.
    """
    mark = _mark_of(result)
    if processes().count > 1 or not (mark.is_file() and result.is_file()):
        return False
    try:
        noted = read_json(mark)
        files = {result.parent / name: digest for name, digest in noted["files"].items()}
        same = (noted["schema_version"], noted["request"]) == (SCHEMA_VERSION, request)
        return same and all(_of_path(path) == digest for path, digest in files.items())
    except (ValueError, KeyError, AttributeError, OSError):  # damaged, or something is gone
        return False


def mark_finished(result: Path, request: str, files: Iterable[Path] = ()) -> None:
    """Note that a result was made by this request.

    Args:
        files: what else was made, and has to be there as it is: files, by content, or folders, such as that of blocks.
    """
    if processes().is_main:
        there = (path for path in (result, *files) if path.exists())
        kept = {os.path.relpath(path, result.parent): _of_path(path) for path in there}
        write_json(_mark_of(result), {"request": request, "files": kept, "run": provenance()})


def _mark_of(result: Path) -> Path:
    return result.with_name(f"{result.stem}{FINISHED}")


def _content(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_content(each) for each in value]
    if not isinstance(value, str | Path):
        return value
    text = str(value)
    paths = [heads.PUBLISHED if part == "published" else Path(part) for part in _paths_in(text)]
    return [text, *(_of_path(path) for path in paths if path.exists())]


def _paths_in(text: str) -> list[str]:
    """The text, and what stands in it as a value, as in adhh:heads=FILE or METHOD="FILE"."""
    return [text, *(part.split("=")[-1].strip('"') for part in text.replace("+", ",").split(","))] if text else []


def _of_path(path: Path) -> str:
    if path.is_file():
        return file_sha256(path)
    if has_config(path):
        return identify_checkpoint(path)["sha256"]
    digest = hashlib.sha256()
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        status = entry.stat()
        digest.update(f"{entry.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()
