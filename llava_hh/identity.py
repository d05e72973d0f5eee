"""Which bytes an input is: sha256 of files, reckoned once per machine, and of all files that make a checkpoint.

Digests are kept in one file of the user's cache folder, by real path, size, inode and times of change, so that a
checkpoint of 14 GB is read once and not once a run. They are never kept beside a run.
"""

import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from llava_hh.files import read_json, sha256, write_text
from llava_hh.models.lvlm import Lvlm
from llava_hh.models.original_config import find_folder, is_original
from llava_hh.models.weight_files import PROJECTOR, weight_files

SMALL = 1 << 20  # bytes; a smaller file is read every time
SETTLED = 2.0  # seconds; a file that changed just now may change again without its times telling
# what processors and tokenizers are read from; a checkpoint folder may hold other JSON, which decides nothing
READ = re.compile(
    r"(generation_config|.*processor.*|tokenizer.*|special_tokens_map|added_tokens|vocab|.*chat_template.*|adapter_.*)"
    r"\.(json|jinja|model)|vocab\.txt|merges\.txt|config\.json"
)
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")


def file_sha256(path: Path) -> str:
    """The sha256 of a file's content.

    A file in a hub's cache has it as its name already (what the hub keeps as large files).

    Raises:
        OSError: the file cannot be read.
    """
    real = Path(path).resolve(strict=True)
    if real.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", real.name):
        return real.name
    if (size := real.stat().st_size) < SMALL:
        return sha256(real)
    with _cache() as known:
        key = _key(real)
        entry = known.get(str(real))
        if entry and entry[:-1] == key:
            return entry[-1]
        digest = _digest_with_bar(real, size)
        if _key(real) == key and max(key[2:]) / 1e9 < time.time() - SETTLED:
            known[str(real)] = [*key, digest]
    return digest


def identify(path: Path) -> dict:
    """What a file or a checkpoint's folder is: its `name`, for people, and its `sha256`."""
    if Path(path).is_dir():
        return identify_checkpoint(path)
    return {"name": Path(path).name, "sha256": file_sha256(path)}


def identify_checkpoint(folder: Path) -> dict:
    """What a checkpoint is: its folder's `name`, for people; its `files` with their sha256; and the `sha256` of these.

    Files are those that loading reads: configuration, weights, processor, tokenizer, templates, adapters; also those
    of a vision tower or a base beside an original LLaVA, and of the parts that a config.json names.

    Raises:
        FileNotFoundError: no config.json there, or a part that is missing.
    """
    folder = Path(folder)
    files = {name: file_sha256(file) for name, file in checkpoint_files(folder)}
    return {"name": folder.resolve().name, "sha256": digest_of(files), "files": files}


def describe_loaded(lvlm: Lvlm) -> dict:
    """What a loaded model is: `identify_checkpoint` of its folder, with the type of its numbers and its device."""
    loading = {"bits": lvlm.loading.bits} if lvlm.loading.bits else {}
    dtype = str(lvlm.model.dtype).removeprefix("torch.")
    return {**identify_checkpoint(lvlm.path), "dtype": dtype, **loading, "device": lvlm.model.device.type}


def why_foreign(origin: object, checkpoint: Path) -> str | None:
    """Why a head list was not found on a checkpoint, None where it was, or where it does not say on which.

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


def digest_of(content: object) -> str:
    """A sha256 of JSON-ready content, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def has_config(folder: Path) -> bool:
    """Whether a folder may be a checkpoint."""
    return (folder / "config.json").is_file()


def checkpoint_files(folder: Path) -> list[tuple[str, Path]]:
    """The files that loading a checkpoint reads, each with a name: that of the part it belongs to before its own."""
    if not has_config(folder):
        raise FileNotFoundError(f"{folder}: no config.json there; expected a folder with a checkpoint")
    fields = read_json(folder / "config.json")
    named = [(file.name, file) for file in _own_files(folder)]
    parts = fields.get("parts")
    for part, where in (parts if isinstance(parts, dict) else {}).items():
        named += _files_of_part(part, folder / str(where))
    if is_original(fields):
        base = fields.get("_name_or_path")
        if not weight_files(folder) and (folder / PROJECTOR).is_file() and base:
            named.append((PROJECTOR, folder / PROJECTOR))
            named += _files_of_part("base", find_folder(base, folder, "base language model (_name_or_path)"))
        with suppress(FileNotFoundError):  # a checkpoint may hold its tower, and needs no folder then
            named += _files_of_part("vision_tower", find_folder(fields["mm_vision_tower"], folder, "vision tower"))
    return sorted(named)


def _files_of_part(part: str, place: Path) -> list[tuple[str, Path]]:
    if not place.exists():
        raise FileNotFoundError(f"{place}: not there; the checkpoint's {part} is expected there")
    files = _own_files(place) if place.is_dir() else [place]
    return [(f"{part}/{file.name}", file) for file in files]


def _own_files(folder: Path) -> Iterable[Path]:
    read = [file for file in folder.iterdir() if READ.fullmatch(file.name) and file.is_file()]
    read += [folder / name for name in ("model.safetensors.index.json", "pytorch_model.bin.index.json")]
    weights = [weights.path for weights in weight_files(folder)]
    adapters = [file for file in folder.glob("adapter_model*") if file.suffix in WEIGHT_SUFFIXES]
    return [file for file in {*read, *weights, *adapters} if file.is_file()]


def _key(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def _digest_with_bar(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with (
        open(path, "rb") as file,
        tqdm(total=size, desc=f"sha256 of {path.name}", unit="B", unit_scale=True, disable=size < 1 << 30) as bar,
    ):
        while piece := file.read(1 << 24):
            digest.update(piece)
            bar.update(len(piece))
    return digest.hexdigest()


@contextmanager
def _cache() -> Iterator[dict[str, list]]:
    """The digests that are known on this machine, held while the context is open: whoever waits finds them after.

    Where the cache folder cannot be written, nothing is kept.
    """
    file = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "llava_hh" / "sha256"
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(file.parent / "sha256.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except (OSError, RuntimeError):  # RuntimeError: no home
        yield {}
        return
    try:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        known = _read_known(file)
        before = dict(known)
        yield known
        if known != before:
            with suppress(OSError):
                write_text(file, json.dumps(known, indent=0))
    finally:
        os.close(lock)


def _read_known(file: Path) -> dict[str, list]:
    """The entries of the cache that have the form of one; a damaged cache is begun anew."""
    try:
        content = json.loads(file.read_bytes())
        return {path: entry for path, entry in content.items() if len(entry) == 5 and isinstance(entry[-1], str)}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
