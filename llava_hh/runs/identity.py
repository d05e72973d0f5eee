"""The identity of inputs: sha256 of files, computed once per machine, and of all files of a checkpoint.

Digests are kept in one file of the user's cache folder, by real path, size, inode and times of change. A checkpoint of
14 GB is thus read once, not once a run. Digests are never kept beside a run.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from llava_hh.files.files import read_json, sha256, write_text
from llava_hh.files.progress import progress
from llava_hh.models.hub_id import snapshot_of
from llava_hh.models.lvlm import Lvlm
from llava_hh.models.original_fields import has_tower, is_original, language_files, part_of, tower_folder
from llava_hh.models.weight_files import DESCRIBES, PROJECTOR, weight_files
from llava_hh.runs.settings import digest_of

SMALL = 1 << 20  # bytes; a smaller file is read every time
SETTLED = 2.0  # seconds; a file that changed just now may change again without its times telling
_read_here: dict[str, list] = {}  # what this process has read, for where the cache cannot be written


def file_sha256(path: Path) -> str:
    """The sha256 of a file's content.

    Raises:
        OSError: the file cannot be read.
    Differs: the hub's cache names large files by their sha256. That name is not trusted: a program that writes into a
        snapshot changes the file and leaves its name.
    """
    real = Path(path).resolve(strict=True)
    if real.stat().st_size < SMALL:
        return sha256(real)
    if (digest := _known_digest(real)) is None:
        with _alone(str(real)):  # of several processes one reads, and the others wait
            digest = _known_digest(real) or _read_and_keep(real)
    return digest


def identify(path: Path) -> dict:
    """What a file or a checkpoint's folder is: its `name`, for people, and its `sha256`."""
    if Path(path).is_dir():
        return identify_checkpoint(path)
    return {"name": Path(path).name, "sha256": file_sha256(path)}


def identify_checkpoint(folder: Path) -> dict:
    """What a checkpoint is: its `name`, for people; its `files` with their sha256; and the `sha256` of these.

    A snapshot of the hub is named as there, and has `hub`: its `id` and `commit`. A folder is named as it is, but one
    that is named "model", as in heads_1234/model, by the folder around it.

    Files are those that loading reads: configuration, weights, processor, tokenizer, templates; also those
    of a vision tower or a base beside an original LLaVA, and of the parts that a config.json names.

    Raises:
        FileNotFoundError: no config.json there, or a part that is missing.
    """
    folder = Path(folder)
    files = {name: file_sha256(file) for name, file in checkpoint_files(folder)}
    whole = folder.resolve()
    hub = snapshot_of(whole)
    name = whole.parent.name if whole.name == "model" else whole.name
    about = {"name": hub["id"], "hub": hub} if hub else {"name": name}
    return {**about, "sha256": digest_of(files), "files": files}


def describe_loaded(lvlm: Lvlm) -> dict:
    """What a loaded model is: `identify_checkpoint` of its folder, with the type of its numbers and its device."""
    loading = {"bits": lvlm.loading.bits} if lvlm.loading.bits else {}
    dtype = str(lvlm.model.dtype).removeprefix("torch.")
    return {**identify_checkpoint(lvlm.path), "dtype": dtype, **loading, "device": lvlm.model.device.type}


def why_foreign(origin: object, checkpoint: Path) -> str | None:
    """Why a head list does not belong to a checkpoint; None where it does, or does not name its model.

    Args:
        origin: what the list says of its model.
    """
    if origin is None:
        return None
    if not isinstance(origin, dict) or "sha256" not in origin:
        return "found by an earlier version, which knew a model by config.json and file sizes alone"
    if origin["sha256"] == identify_checkpoint(checkpoint)["sha256"]:
        return None
    return f"found on another model than {checkpoint} ({origin.get('name')}), by the content of their files"


def has_config(folder: Path) -> bool:
    """Whether a folder may be a checkpoint."""
    return (folder / "config.json").is_file()


def checkpoint_files(folder: Path) -> list[tuple[str, Path]]:
    """The files that loading a checkpoint reads, by name; PART/FILE where a file belongs to a part."""
    if not has_config(folder):
        raise FileNotFoundError(f"{folder}: no config.json there; expected a folder with a checkpoint")
    fields = read_json(folder / "config.json")
    named = [(file.name, file) for file in _files_in(folder)]
    parts = fields.get("parts")
    for part, where in (parts if isinstance(parts, dict) else {}).items():
        named += _files_of_part(part, part_of(folder, part, where))
    if is_original(fields):
        base, files = language_files(folder, fields)
        if base != folder:
            named += [(PROJECTOR, folder / PROJECTOR), *_files_of_part("base", base)]
        is_inside = has_tower(files)
        if tower := tower_folder(folder, fields, is_inside):
            beside = _files_of_part("vision_tower", tower)
            named += [(name, file) for name, file in beside if not is_inside or file.name == "config.json"]
    return sorted(named)


def _files_of_part(part: str, path: Path) -> list[tuple[str, Path]]:
    if not path.exists():
        raise FileNotFoundError(f"{path}: not there; the checkpoint's {part} is expected there")
    files = [(path.name, path)]
    if path.is_dir():  # a checkpoint may have parts of its own
        files = checkpoint_files(path) if has_config(path) else [(file.name, file) for file in _files_in(path)]
    return [(f"{part}/{name}", file) for name, file in files]


def _files_in(folder: Path) -> list[Path]:
    read = {file for file in folder.iterdir() if DESCRIBES.fullmatch(file.name)}
    read |= {weights.path for weights in weight_files(folder)}
    return [file for file in read if file.is_file()]


def _known_digest(real: Path) -> str | None:
    """What the cache has of a file that has not changed since."""
    entry = {**_read_known(), **_read_here}.get(str(real))
    return entry[-1] if entry and entry[:-1] == _key(real) else None


def _read_and_keep(real: Path) -> str:
    key = _key(real)
    digest = _digest_with_bar(real, key[0])
    if _key(real) == key and max(key[2:]) / 1e9 < time.time() - SETTLED:
        _read_here[str(real)] = [*key, digest]
        with suppress(OSError, RuntimeError):
            write_text(_cache_file(), json.dumps({**_read_known(), **_read_here}, indent=0))
    return digest


def _key(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def _digest_with_bar(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with (
        open(path, "rb") as file,
        progress(f"sha256 of {path.name}", "B", total=size, hidden=size < 1 << 30, unit_scale=True) as bar,
    ):
        while piece := file.read(1 << 24):
            digest.update(piece)
            bar.update(len(piece))
    return digest.hexdigest()


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """Hold a lock of this name among the user's processes, where the cache folder can be written."""
    with ExitStack() as stack:
        with suppress(OSError, RuntimeError):  # RuntimeError: no home
            folder = _cache_file().parent
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(folder / f"{digest_of(name)[:16]}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            stack.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _cache_file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "llava_hh" / "sha256"


def _read_known() -> dict[str, list]:
    """The entries of the cache that have the form of one; a damaged cache is begun anew."""
    try:
        content = json.loads(_cache_file().read_bytes())
        return {path: entry for path, entry in content.items() if len(entry) == 5 and isinstance(entry[-1], str)}
    except (OSError, RuntimeError, ValueError, AttributeError, TypeError):
        return {}
