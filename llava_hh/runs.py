"""A run's folder: provenance, fixed blocks that a rerun skips and several processes share, atomic files.

Under `accelerate launch` every process runs the whole script. Blocks are dealt to them by number, each process writes
the files of its own blocks into the shared folder, and the first one merges them: the same bytes as from one process.
"""

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from safetensors.numpy import load_file
from tqdm import tqdm

from llava_hh.files import is_ours, read_json, sha256, write_json, write_rows, write_tensors, write_text
from llava_hh.parts import drop_parts, part_of
from llava_hh.processes import processes

RESULT_SUFFIXES = (".jsonl", ".safetensors", ".md", ".png", ".pdf")  # of files that do not say who wrote them
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth")
BLOCK_NAME = re.compile("[0-9]{5}|[1-9][0-9]{5,}")
RECORDED_PACKAGES = ("torch", "transformers", "tokenizers", "nltk", "pillow", "numpy")


def share_out(items: Sequence, work: Callable[[Sequence], list]) -> list:
    """The JSON-ready results of `work` over slices of `items`, one per process, in order and for every process."""
    team = processes()
    first, last = (len(items) * rank // team.count for rank in (team.rank, team.rank + 1))
    parts = team.gather(json.dumps(work(items[first:last])))
    return [result for part in parts for result in json.loads(part)]


def describe_model(path: Path) -> dict:
    """What tells two checkpoints apart without reading gigabytes: the config's hash, weight files and their sizes.

    Where a config.json names `parts` (files and folders elsewhere, see `llava_hh.models.minigpt4_checkpoint`), weight
    files are those.
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path}: no config.json there; expected a folder with a transformers checkpoint")
    parts = read_json(path / "config.json").get("parts")
    places = [path, *(path / str(part) for part in (parts if isinstance(parts, dict) else {}).values())]
    weights = sorted(
        file for place in places for file in [place, *place.glob("[!.]*")] if file.suffix in WEIGHT_SUFFIXES
    )
    sizes = {file.name: file.stat().st_size for file in weights}
    return {"config_sha256": sha256(path / "config.json"), "weights": sizes}


def provenance() -> dict:
    """Command line, commit, versions and machine of this process.

    `commit` and `dirty` (whether files differ from the commit) are None where git is missing, refuses the checkout or
    does not know these files, as where the package is installed inside another repository.
    """

    def git(*words: str) -> str | None:
        command = ["git", "-C", Path(__file__).parent, *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    def version_of(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    is_known = git("ls-files", "--error-unmatch", Path(__file__).name) is not None
    commit = git("rev-parse", "HEAD") if is_known else None
    changes = git("status", "--porcelain") if commit else None
    return {
        "argv": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit,
        "dirty": None if changes is None else bool(changes),
        "versions": {"python": platform.python_version(), **{name: version_of(name) for name in RECORDED_PACKAGES}},
        "processes": processes().count,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
    }


@dataclass(frozen=True)
class Run:
    """The folder of one run. `start_run` makes it."""

    folder: Path

    def blocks(self, samples: Sequence[dict], size: int, label: str) -> Iterator[tuple[int, Sequence[dict]]]:
        """Yield (number, samples) of this process's blocks that are not finished, with a progress bar over samples.

        Process r of n has the blocks r, r + n, r + 2n, ... When the loop is over, every process's blocks are finished,
        and blocks left over from a run over more samples are gone.

        Args:
            samples: each with an `image_id`; block n is samples[n * size : (n + 1) * size], whatever was done before.
        """
        team = processes()
        n_blocks = -(-len(samples) // size)
        own = range(team.rank, n_blocks, team.count)
        total = sum(len(samples[number * size : (number + 1) * size]) for number in own)
        with tqdm(total=total, desc=label, unit="image", disable=not team.is_main) as bar:
            for number in own:
                block = samples[number * size : (number + 1) * size]
                if not self._is_finished(number, block):
                    yield number, block
                bar.update(len(block))
        team.wait()
        if team.is_main:
            self._drop_blocks_after(n_blocks)
        team.wait()

    def finish_block(
        self,
        number: int,
        samples: Sequence[dict],
        rows: list[dict],
        arrays: dict | None = None,
        seconds: float | None = None,
        image_sha256: Sequence[str] | None = None,
        sub_batch: int | None = None,
    ) -> None:
        """Keep the rows (and arrays, stacked along dimension 0) of a block; it counts as finished from here on.

        Args:
            seconds: what the block took, for those who compare times; kept beside the rows, not in them.
            image_sha256: of each row's image file, for those who compare runs; kept beside the rows as well.
            sub_batch: into how small parts it was cut for want of memory, None where it was not; kept there too.
        """
        if arrays:
            write_tensors(self._block(number, "safetensors"), arrays)
        content = {"image_ids": [sample["image_id"] for sample in samples], "rows": rows}
        if seconds is not None:
            content["seconds"] = round(seconds, 6)
        if image_sha256 is not None:
            content["image_sha256"] = list(image_sha256)
        if sub_batch is not None:
            content["sub_batch"] = sub_batch
        write_text(self._block(number, "json"), json.dumps(content, ensure_ascii=False))

    def finished_blocks(self) -> Iterator[dict]:
        """The finished blocks in order: image_ids, rows and, where they were given, seconds and image_sha256."""
        return map(_read_block, self._own_blocks("json"))

    def finished_rows(self) -> list[dict]:
        """The rows of all finished blocks, in order."""
        return [row for block in self.finished_blocks() for row in block["rows"]]

    def finished_arrays(self) -> Iterator[dict]:
        """The arrays of all finished blocks that have some, in order, one block at a time."""
        return map(load_file, self._own_blocks("safetensors"))

    def write_rows(self, name: str) -> None:
        """Merge the rows of the blocks into one JSON-lines file; only the main process writes it."""
        if processes().is_main:
            write_rows(self.folder / name, self.finished_rows())

    def _drop_blocks_after(self, count: int) -> None:
        """Delete blocks from number `count` on, and what a killed process was writing; name the files of others."""
        drop_parts(self._blocks_folder)
        own = self._own_blocks("json") + self._own_blocks("safetensors")
        for path in own:
            if int(path.stem) >= count:
                path.unlink()
        seen = (path for path in self._blocks_folder.glob("*") if not path.name.startswith("."))
        if others := sorted(path.name for path in set(seen) - set(own)):
            names = ", ".join(map(repr, others[:5])) + (f" and {len(others) - 5} more" if others[5:] else "")
            tqdm.write(f"warning: {self._blocks_folder}: {names}: no run of ours wrote it; left alone", file=sys.stderr)

    def _own_blocks(self, ending: str) -> list[Path]:
        """The files of this run's blocks, by number; a sync program's copy ("00001 (1).json") is none of them."""
        files = (path for path in self._blocks_folder.glob(f"*.{ending}") if BLOCK_NAME.fullmatch(path.stem))
        return sorted((path for path in files if path.is_file()), key=lambda path: int(path.stem))

    @property
    def _blocks_folder(self) -> Path:
        return self.folder / "blocks"

    def _block(self, number: int, ending: str) -> Path:
        return self._blocks_folder / f"{number:05d}.{ending}"

    def _is_finished(self, number: int, samples: Sequence[dict]) -> bool:
        path = self._block(number, "json")
        return path.is_file() and _read_block(path)["image_ids"] == [sample["image_id"] for sample in samples]


def _read_block(path: Path) -> dict:
    block = read_json(path)
    ids, rows = block.get("image_ids"), block.get("rows")
    if not isinstance(ids, list) or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: not a finished block; delete it and give the same command again")
    return block


def make_folder(folder: Path) -> None:
    """Make a result folder and see that it can be written, before hours of work go into it; clear up after kills.

    Raises:
        FileExistsError: results are there, and none of them says that this package wrote it.
        OSError: it cannot be written; one line that names the folder.
    """
    # names that begin with a dot are of systems and tools, such as the "._" files of macOS
    files = [path for path in folder.glob("[!.]*") if path.suffix in RESULT_SUFFIXES and path.is_file()]
    if files and not any(is_ours(path) for ours in ("*.json", "blocks/*.json") for path in folder.glob(ours)):
        what = f"{min(files).name} is there, and no run of ours wrote it"
        raise FileExistsError(f"--out {folder}: {what}; choose another folder")
    _try_writing(folder)


def make_parent(file: Path) -> None:
    """As `make_folder`, for a result file that may lie beside the files of others.

    Raises:
        FileExistsError: it is there and not of this package, or its table or figure is there without it.
        OSError: its folder cannot be written.
    """
    if os.path.lexists(file) and not is_ours(file):
        raise FileExistsError(f"{file}: is there already, and no run of ours wrote it; move it or choose another --out")
    beside = [path for ending in (".md", ".png", ".pdf") if (path := file.with_suffix(ending)).exists()]
    if beside and not file.exists():
        raise FileExistsError(f"{beside[0]}: is there without {file.name}; move it or choose another --out")
    _try_writing(file.parent)


def _try_writing(folder: Path) -> None:
    try:
        with part_of(folder / "probe"):
            pass
    except OSError as error:
        raise OSError(f"--out {folder}: cannot be written ({error.strerror}); choose another folder") from None
    drop_parts(folder)


def begun_run(folder: Path, settings: dict) -> dict | None:
    """The run.json of a folder in which a run was begun with these settings, None where none was.

    Raises:
        ValueError: it was begun with others; names those that differ. `limit` may differ.
    """
    record = folder / "run.json"
    if not record.exists():
        return None
    before = read_json(record)
    seconds = before.get("seconds", "")
    if not isinstance(before.get("settings"), dict) or not isinstance(seconds, float | int | None):
        raise ValueError(f"{record}: not that of a run, it is damaged; choose another --out or delete the folder")
    old, settings = before["settings"], json.loads(json.dumps(settings))
    changed = [name for name in sorted({*old, *settings} - {"limit"}) if old.get(name) != settings.get(name)]
    if changed:
        what = "; ".join(f"{name} was {old.get(name)!r}, is {settings.get(name)!r}" for name in changed)
        raise ValueError(f"{record}: begun with other settings: {what}. Choose another --out or delete the folder")
    return before


@contextmanager
def start_run(folder: Path, settings: dict, manifest: Sequence[int] = ()) -> Iterator[Run]:
    """Open the folder of a run, held against other runs until the block is left.

    Its run.json holds settings, provenance, the image ids and, at the end, the seconds.

    Args:
        settings: whatever decides the result, JSON-ready. A folder begun with others is refused; `limit` may change,
            and so may the number of processes.
    Raises:
        ValueError: naming the settings that differ.
        OSError: the folder cannot be written, or another run is in it.
    """
    make_folder(folder)
    record = folder / "run.json"
    main = processes().is_main
    with processes().hold(folder):
        before = begun_run(folder, settings)
        spent = (before and before["seconds"]) or 0.0
        content = {"settings": settings, **provenance(), "image_ids": list(manifest), "seconds": spent or None}
        if main:
            write_json(record, content)
        begun = time.monotonic()
        yield Run(folder)
        if main:
            write_json(record, {**content, "seconds": round(spent + time.monotonic() - begun, 1)})
