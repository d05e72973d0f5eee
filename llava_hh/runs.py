"""A run's folder: provenance, fixed blocks that a rerun skips, atomic files."""

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from safetensors.numpy import load_file, save_file
from tqdm import tqdm

RECORDED_PACKAGES = ("torch", "transformers", "tokenizers", "nltk", "pillow", "numpy")


def write_json(path: Path, content: object) -> None:
    """Write a JSON file so that a reader finds the old one or the new one, never a part."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; its folder is made if it isn't there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_tensors(path: Path, arrays: dict) -> None:
    """Write named numpy arrays as safetensors, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    save_file(arrays, part)
    os.replace(part, path)


def read_json(path: Path) -> dict:
    """Read a JSON object; ValueError names the file when it is not one."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found a {type(content).__name__}")
    return content


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_model(path: Path) -> dict:
    """What tells two checkpoints apart without reading gigabytes: the config's hash, weight files and their sizes."""
    path = Path(path)
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path}: no config.json there; expected a folder with a transformers checkpoint")
    weights = sorted([*path.glob("*.safetensors"), *path.glob("*.bin")])
    return {
        "config_sha256": sha256(path / "config.json"),
        "weights": {file.name: file.stat().st_size for file in weights},
    }


def provenance() -> dict:
    """Command line, commit, versions and machine of this process."""

    def git(*words: str) -> str | None:
        done = subprocess.run(["git", "-C", Path(__file__).parent, *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    def version_of(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    return {
        "argv": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain")),
        "versions": {"python": platform.python_version(), **{name: version_of(name) for name in RECORDED_PACKAGES}},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
    }


@dataclass(frozen=True)
class Run:
    """The folder of one run. `start_run` makes it."""

    folder: Path

    def blocks(self, samples: Sequence[dict], size: int, label: str) -> Iterator[tuple[int, Sequence[dict]]]:
        """Yield (number, samples) of every block that is not finished, with a progress bar over samples.

        Args:
            samples: each with an `image_id`; block n is samples[n * size : (n + 1) * size], whatever was done before.
        """
        with tqdm(total=len(samples), desc=label, unit="image") as bar:
            for number, start in enumerate(range(0, len(samples), size)):
                block = samples[start : start + size]
                if not self._is_finished(number, block):
                    yield number, block
                bar.update(len(block))

    def finish_block(self, number: int, samples: Sequence[dict], rows: list[dict], arrays: dict | None = None) -> None:
        """Keep the rows (and arrays, stacked along dimension 0) of a block; it counts as finished from here on."""
        if arrays:
            write_tensors(self._block(number, "safetensors"), arrays)
        ids = [sample["image_id"] for sample in samples]
        write_text(self._block(number, "json"), json.dumps({"image_ids": ids, "rows": rows}, ensure_ascii=False))

    def finished_rows(self) -> list[dict]:
        """The rows of all finished blocks, in order."""
        return [row for path in sorted(self._blocks_folder.glob("*.json")) for row in read_json(path)["rows"]]

    def finished_arrays(self) -> list[dict]:
        """The arrays of all finished blocks that have some, in order."""
        return [load_file(path) for path in sorted(self._blocks_folder.glob("*.safetensors"))]

    def drop_blocks_after(self, count: int) -> None:
        """Delete blocks from number `count` on, left over from a run over more samples."""
        for path in self._blocks_folder.glob("*"):
            if path.name.startswith(".") or int(path.stem) >= count:
                path.unlink()

    def write_rows(self, name: str) -> Path:
        """Merge the rows of the blocks into one JSON-lines file."""
        path = self.folder / name
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.finished_rows()))
        return path

    @property
    def _blocks_folder(self) -> Path:
        return self.folder / "blocks"

    def _block(self, number: int, ending: str) -> Path:
        return self._blocks_folder / f"{number:05d}.{ending}"

    def _is_finished(self, number: int, samples: Sequence[dict]) -> bool:
        path = self._block(number, "json")
        return path.is_file() and read_json(path)["image_ids"] == [sample["image_id"] for sample in samples]


@contextmanager
def start_run(folder: Path, settings: dict, manifest: Sequence[int] = ()) -> Iterator[Run]:
    """Open the folder of a run; its run.json holds settings, provenance, the image ids and, at the end, the seconds.

    Args:
        settings: whatever decides the result, JSON-ready. A folder begun with others is refused; `limit` may change.
    Raises:
        ValueError: naming the settings that differ.
    """
    record = folder / "run.json"
    settings = json.loads(json.dumps(settings))
    spent = 0.0
    if record.exists():
        before = read_json(record)
        old = before["settings"]
        changed = [name for name in sorted({*old, *settings} - {"limit"}) if old.get(name) != settings.get(name)]
        if changed:
            what = "; ".join(f"{name} was {old.get(name)!r}, is {settings.get(name)!r}" for name in changed)
            raise ValueError(f"{record}: begun with other settings: {what}. Choose another --out or delete the folder")
        spent = before["seconds"] or 0.0
    content = {"settings": settings, **provenance(), "image_ids": list(manifest), "seconds": spent or None}
    write_json(record, content)
    begun = time.monotonic()
    yield Run(folder)
    write_json(record, {**content, "seconds": round(spent + time.monotonic() - begun, 1)})
