"""Whether a verb's result is there already, made of the same inputs; then it is shown, and no model is loaded."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from llava_hh import heads
from llava_hh.files.files import read_json, write_json
from llava_hh.files.parts import drop_parts
from llava_hh.files.processes import processes
from llava_hh.files.schema import FINISHED, SCHEMA_VERSION
from llava_hh.models.loading import Loading
from llava_hh.runs.identity import file_sha256, has_config, identify_checkpoint
from llava_hh.runs.run import provenance
from llava_hh.runs.scored import SCORED, captions_beside
from llava_hh.runs.settings import digest_of

SHOWN = ("debug", "format", "style", "profile", "run", "argv", "what")  # flags that no result depends on
OUTPUTS = ("out",)


def request_of(
    verb: str, flags: Mapping[str, Any], further: Iterable[object] = (), outputs: Iterable[str] = OUTPUTS
) -> str:
    """A digest of what a verb is asked for: its flags, their files by content, and how models are loaded.

    Checkpoints count by the files that loading reads; scores also by the captions beside them, which may have been made
    anew since; other folders, such as that of the images, by the names, sizes and times of change of all files below.

    Args:
        flags: by name, as a parser gives them; a Path counts by what is there.
        further: what else decides, such as methods as they were read and the files that they name (Path).
        outputs: flags of what is written, which count by their names.
    Raises:
        OSError: a file that cannot be read.
    """
    asked = {name: value for name, value in flags.items() if name not in SHOWN}
    asked |= {name: os.path.abspath(asked[name]) for name in outputs if asked.get(name)}
    content = {name: _content(value) for name, value in asked.items()}
    launched = {name: value for name, value in os.environ.items() if name.startswith("ACCELERATE_")}
    how = {"loading": Loading.from_environment().record(), "launched": launched}
    return digest_of({"verb": verb, "flags": content, "further": _content([*further]), **how})


def is_finished(result: Path, request: str) -> bool:
    """Whether `mark_finished` noted this request, and its files have not changed since.

    Several processes go on to their run, which finds its blocks finished. What a command that was killed later, such as
    while it drew, left of files half written is deleted.
    """
    if processes().count > 1:
        return False
    try:
        noted = read_json(_mark_of(result))
        files = {result.parent / name: digest for name, digest in noted["files"].items()}
        same = (noted["schema_version"], noted["request"]) == (SCHEMA_VERSION, request) and result in files
        if finished := same and all(_of_path(path) == digest for path, digest in files.items()):
            drop_parts(result.parent)
        return finished
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


def left_by_runs(*folders: Path) -> list[Path]:
    """What the runs in and below these folders left: records, blocks, rows, arrays and scores."""
    made = ("run.json", "blocks", "*.jsonl", "*.safetensors", "*_results.json")
    records = [record for folder in folders for record in sorted(folder.rglob("run.json"))]
    return [path for record in records for pattern in made for path in sorted(record.parent.glob(pattern))]


def _mark_of(result: Path) -> Path:
    return result.with_name(f"{result.stem}{FINISHED}")


def _content(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_content(each) for each in value]
    if not isinstance(value, Path):
        return value if isinstance(value, str | int | float | bool | dict | None) else str(value)
    path = heads.PUBLISHED if value == Path("published") else value
    with suppress(OSError):  # what cannot be a path is not there
        if path.exists():
            return [str(value), _of_path(path)]
    return str(value)


def _of_path(path: Path) -> str:
    if path.name == "run.json" and path.is_file():  # its times are those of the last command
        return digest_of(read_json(path).get("settings"))
    if path.is_file():
        beside = captions_beside(path) if path.name.endswith(SCORED) else []
        return digest_of([file_sha256(each) for each in (path, *beside)]) if beside else file_sha256(path)
    if has_config(path):
        return identify_checkpoint(path)["sha256"]
    digest = hashlib.sha256()
    for folder, folders, names in os.walk(path, followlinks=True):
        folders.sort()
        for name in sorted(names):
            file = os.path.join(folder, name)
            status = os.stat(file) if os.path.exists(file) else os.lstat(file)  # a link to nothing
            digest.update(os.fsencode(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\0"))
    return digest.hexdigest()
