"""The blocks of a run: fixed by number, skipped when finished, shared by several processes, merged in order.

Under `accelerate launch` every process runs the whole script. Blocks are dealt to processes by number. A process writes
the files of its blocks into the shared folder, and the first one merges them: the same bytes as from one process.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava_hh.files.files import read_json, sha256, sha256_or_none, write_rows, write_tensors, write_text
from llava_hh.files.parts import drop_parts
from llava_hh.files.processes import processes
from llava_hh.files.progress import Forecast, announce, progress, reach
from llava_hh.files.signals import refuse_stopped
from llava_hh.files.tensors import read_tensors
from llava_hh.runs.settings import digest_of

BLOCK_NAME = re.compile("[0-9]{5}|[1-9][0-9]{5,}")
PATIENCE = 30.0  # seconds for which a shared file system may show a finished block late


@dataclass
class Run:
    """The folder of one run. `start_run` makes it.

    Attributes:
        made: commit, versions and machine of this process, which its blocks keep.
        settings_sha256: of their settings, which they keep too.
        samples, size: what `blocks` was called with last: results are those of these samples alone.
    """

    folder: Path
    made: dict[str, Any] | None = None
    settings_sha256: str | None = None
    samples: Sequence[dict] | None = field(default=None, init=False)
    size: int = field(default=0, init=False)
    image_of: Callable[[dict], Path] | None = field(default=None, init=False)

    def blocks(
        self, samples: Sequence[dict], size: int, label: str, image_of: Callable[[dict], Path] | None = None
    ) -> Iterator[tuple[int, Sequence[dict]]]:
        """Yield (number, samples) of this process's blocks that are not finished, with a progress bar over samples on a
        terminal; after the first of them a line says how long the rest takes.

        Process r of n has the blocks r, r + n, r + 2n, ... When the loop is over, all blocks of all processes are
        there. A block that was finished over more samples than are asked for now counts as finished.

        Args:
            samples: each with an `image_id`; block n is samples[n * size : (n + 1) * size], whatever was done before.
            image_of: the image file of a sample. Its sha256 is kept, and a finished block whose image has changed is
                refused.
        Raises:
            ValueError: an image has changed since its block was made, or the block was made under other settings.
            OSError: a block of another process is not there.
        """
        self.samples, self.size, self.image_of = samples, size, image_of
        team, forecast = processes(), Forecast(label, "image")
        if team.is_main:
            self._name_others()
        sizes = {number: len(self._samples_of(number)) for number in range(team.rank, self.n_blocks, team.count)}
        with progress(label, "image", total=sum(sizes.values())) as bar:
            for number in sizes:
                refuse_stopped()
                if not self._is_finished(number):
                    forecast.begin()
                    yield number, self._samples_of(number)
                    later = (each for each in sizes if each > number and not self._block(each, "json").is_file())
                    forecast.end(sizes[number], (sizes[each] for each in later))
                bar.update(sizes[number])
                reach(number + 1, self.n_blocks, "block", label)
        team.wait()
        if team.is_main:
            self._see_all_blocks()
        team.wait()

    def finish_block(
        self,
        number: int,
        samples: Sequence[dict],
        rows: list[dict],
        arrays: dict | None = None,
        seconds: float | None = None,
        sub_batch: int | None = None,
        of_block: dict | None = None,
        rows_of: Sequence[int] | None = None,
        entries_of: dict[str, Sequence[int]] | None = None,
        fired: Sequence[Sequence[int]] = (),
    ) -> None:
        """Keep the rows of a block, and arrays with an entry per row; from here on it counts as finished.

        Args:
            of_block: arrays of the block as a whole.
            rows_of: the number of rows of every sample, in order; None is one per sample.
            entries_of: for arrays that have not one entry per row, by name: the number of entries of every sample.
            seconds: what the block took, for those who compare times; kept beside the rows, not in them.
            fired: how often heads fired, kept there too.
            sub_batch: into how small parts it was cut for want of memory, None where it was not; kept there too.
        """
        content: dict[str, Any] = {"image_ids": [sample["image_id"] for sample in samples], "rows": rows}
        if named := {**(arrays or {}), **(of_block or {})}:
            write_tensors(self._block(number, "safetensors"), named)
            content |= {"arrays": sorted(arrays or ()), "of_block": sorted(of_block or ())}
            content["arrays_sha256"] = sha256(self._block(number, "safetensors"))
        content |= {
            "rows_of": rows_of,
            "entries_of": entries_of,
            "seconds": None if seconds is None else round(seconds, 6),
            "image_sha256": self.image_of and [sha256_or_none(self.image_of(sample)) for sample in samples],
            "fired": fired or None,
            "sub_batch": sub_batch,
            "settings_sha256": self.settings_sha256,
            "made": self.made,
        }
        known = json.loads(json.dumps({name: value for name, value in content.items() if value is not None}))
        write_text(self._block(number, "json"), json.dumps({**known, "sha256": digest_of(known)}, ensure_ascii=False))

    @property
    def n_blocks(self) -> int:
        """How many blocks the samples make; before `blocks` was called, how many lie in the folder."""
        if self.samples is None:
            return 1 + max((int(path.stem) for path in self._block_files("json")), default=-1)
        return -(-len(self.samples) // self.size)

    def finished_blocks(self) -> Iterator[dict]:
        """The finished blocks in order: image_ids, rows and what else `finish_block` was given, cut to the samples."""
        for number in range(self.n_blocks):
            if self.samples is not None or self._block(number, "json").is_file():
                yield self._finished(number)

    def finished_rows(self) -> list[dict]:
        """The rows of all finished blocks, in order."""
        return [row for block in self.finished_blocks() for row in block["rows"]]

    def finished_arrays(self) -> Iterator[dict]:
        """The arrays of all finished blocks that have some, in order, one block at a time."""
        for number in range(self.n_blocks):
            path = self._block(number, "safetensors")
            if not path.is_file():
                continue
            block, arrays = self._finished(number), read_tensors(path)
            if block.get("is_cut"):
                n_samples, n_rows, counts = len(block["image_ids"]), len(block["rows"]), block.get("entries_of", {})
                ends = {name: sum(counts[name][:n_samples]) if name in counts else n_rows for name in arrays}
                ends |= dict.fromkeys(block.get("of_block", ()))  # None: whole
                arrays = {name: array if ends[name] is None else array[: ends[name]] for name, array in arrays.items()}
            yield arrays

    def write_rows(self, name: str) -> None:
        """Merge the rows of the blocks into one JSON-lines file; only the main process writes it."""
        if processes().is_main:
            write_rows(self.folder / name, (row for block in self.finished_blocks() for row in block["rows"]))

    def provenance_of_blocks(self) -> list[dict]:
        """What made the blocks (commit, versions, machine), and the numbers of the blocks it made."""
        origins: dict[str, dict] = {}
        for number in range(self.n_blocks):
            made = _read_block(self._block(number, "json")).get("made")
            key = json.dumps(made, sort_keys=True)
            origins.setdefault(key, {**(made or {}), "blocks": []})["blocks"].append(number)
        return list(origins.values())

    def _samples_of(self, number: int) -> Sequence[dict]:
        return self.samples[number * self.size : (number + 1) * self.size]

    def _finished(self, number: int) -> dict:
        """A finished block with the rows of the samples that are asked for.

        What is left of a block that is cut has no `seconds` and no `fired`: they are of all its samples.
        """
        path = self._block(number, "json")
        block = _read_block(path)
        ids = block["image_ids"]
        if self.samples is None or (n_samples := len(self._samples_of(number))) == len(ids):
            return block
        if "rows_of" not in block and len(block["rows"]) != len(ids):
            raise ValueError(f"{path}: does not say which rows are of which sample; it is taken whole")
        n_rows = sum(block["rows_of"][:n_samples]) if "rows_of" in block else n_samples
        cut = {name: block[name][:n_samples] for name in ("image_ids", "image_sha256", "rows_of") if name in block}
        rest = {name: value for name, value in block.items() if name not in ("seconds", "fired")}
        return {**rest, **cut, "rows": block["rows"][:n_rows], "is_cut": True}

    def _ids_of(self, number: int) -> list:
        return [sample["image_id"] for sample in self._samples_of(number)]

    def _is_finished(self, number: int) -> bool:
        """Whether a block is there as a whole, of these samples and of images that have not changed."""
        path = self._block(number, "json")
        if not path.is_file():
            return False
        block, wanted = _read_block(path), self._ids_of(number)
        if self.settings_sha256 and block.get("settings_sha256", self.settings_sha256) != self.settings_sha256:
            what = "made under other settings than those of this run"
            raise ValueError(f"{path}: {what}; choose another --out or delete the block")
        is_whole = block["image_ids"][: len(wanted)] == wanted and self._has_arrays(number, block)
        return is_whole and (self.image_of is None or self._has_same_images(number, block))

    def _has_same_images(self, number: int, block: dict) -> bool:
        """Whether a block's images are as they were; False if one that was left out has changed.

        Raises:
            ValueError: an image has changed, or is not there any more.
        """
        before = block.get("image_sha256", ())
        if len(before) != len(block["image_ids"]):
            return False
        counts = block.get("rows_of", [1] * len(before))
        for sample, digest, n_rows in zip(self._samples_of(number), before, counts, strict=False):
            image, path = self.image_of(sample), self._block(number, "json")
            if (now := sha256_or_none(image)) == digest:
                continue
            if not n_rows:  # nothing was made of it: it was left out
                return False
            if now is None:
                raise ValueError(f"{image}: not there any more, or not readable; is --image-folder the right one?")
            raise ValueError(f"{image}: changed since {path} was made of it; choose another --out or delete {path}")
        return True

    def unlike_block(self) -> Path | None:
        """The first block in the folder that does not say that it was made under these settings."""
        digests = ((path, _read_block(path).get("settings_sha256")) for path in self._block_files("json"))
        return next((path for path, digest in digests if digest != self.settings_sha256), None)

    def _has_arrays(self, number: int, block: dict) -> bool:
        """Whether a block's arrays are those that were written with it, if it has some."""
        names, path = {*block.get("arrays", ()), *block.get("of_block", ())}, self._block(number, "safetensors")
        if not names:
            return True
        try:
            kept = block.get("arrays_sha256")  # earlier versions kept none
            return names == {*read_tensors(path)} and kept in (None, sha256(path))
        except (OSError, ValueError):
            return False

    def _see_all_blocks(self) -> None:
        """See that every block is there, before they are merged; a shared file system may show one late.

        Raises:
            OSError: one is not, or it is of other samples.
        """
        for number in range(self.n_blocks):
            path, begun, wanted = self._block(number, "json"), time.monotonic(), self._ids_of(number)
            while not path.is_file() or _read_block(path)["image_ids"][: len(wanted)] != wanted:
                if time.monotonic() - begun > PATIENCE * (processes().count > 1):
                    what = f"{path}: not there, or of other images, though all processes are done"
                    raise OSError(f"{what}; do they all see this folder? give the same command again where they do")
                time.sleep(0.2)

    def _name_others(self) -> None:
        """Clear up what a killed process was writing; name the files of others."""
        folder = self.folder / "blocks"
        drop_parts(folder)
        others = {*folder.glob("[!.]*")} - {*self._block_files("json"), *self._block_files("safetensors")}
        if names := sorted(path.name for path in others):
            listed = ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if names[5:] else "")
            announce(f"warning: {folder}: {listed}: no run of ours wrote it; left alone")

    def _block_files(self, ending: str) -> list[Path]:
        """The files of this run's blocks, by number, without copies of a sync program, such as "00001 (1).json"."""
        files = (path for path in (self.folder / "blocks").glob(f"*.{ending}") if BLOCK_NAME.fullmatch(path.stem))
        return sorted((path for path in files if path.is_file()), key=lambda path: int(path.stem))

    def _block(self, number: int, ending: str) -> Path:
        return self.folder / "blocks" / f"{number:05d}.{ending}"


def _read_block(path: Path) -> dict:
    block = read_json(path)
    ids, rows = block.get("image_ids"), block.get("rows")
    if not isinstance(ids, list) or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: not a finished block; delete it and give the same command again")
    written = block.pop("sha256", None)  # earlier versions kept none
    if written and written != digest_of(block):
        raise ValueError(
            f"{path}: damaged, its content is not what was written; delete it and give the same command again"
        )
    return block
