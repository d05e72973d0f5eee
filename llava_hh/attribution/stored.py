"""Arrays of all targets in one file, written and read in pieces: memory does not grow with the captions."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llava_hh.files.files import replacing
from llava_hh.runs.blocks import Run

ROWS_AT_ONCE = 1 << 20  # numbers; of a file that is read
TYPES = {"F32": np.dtype("<f4")}  # by safetensors' name


@dataclass(frozen=True)
class Columns:
    """An array (target, ...) in memory, seen as (target, column)."""

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def columns(self, first: int, last: int) -> np.ndarray:
        """Columns from `first` to before `last`, (target, column)."""
        return self.array.reshape(len(self.array), -1)[:, first:last]


@dataclass(frozen=True)
class StoredColumns:
    """The same of an array of 32-bit floats in a safetensors file; what is asked for is read, a piece at a time."""

    path: Path
    shape: tuple[int, ...]
    offset: int  # of its first byte in the file

    def columns(self, first: int, last: int) -> np.ndarray:
        """Columns from `first` to before `last`, (target, column)."""
        width = int(np.prod(self.shape[1:]))
        found = np.empty((self.shape[0], min(last, width) - first), np.float32)
        n_rows = max(1, ROWS_AT_ONCE // width)
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            for start in range(0, self.shape[0], n_rows):
                count = min(n_rows, self.shape[0] - start) * width
                found[start : start + n_rows] = np.fromfile(file, TYPES["F32"], count).reshape(-1, width)[:, first:last]
        return found


def join_blocks(run: Run, path: Path) -> None:
    """Write the arrays of all blocks as one safetensors file, joined along dimension 0 and atomically.

    Memory is that of one block. Arrays are of 32-bit floats.
    """
    shapes: dict[str, list[int]] = {}
    for arrays in run.finished_arrays():
        for name, array in arrays.items():
            shapes.setdefault(name, [0, *array.shape[1:]])[0] += len(array)
    header, end = {}, 0
    for name, shape in sorted(shapes.items()):
        size = TYPES["F32"].itemsize * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as part, open(part, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in header:
            for arrays in run.finished_arrays():
                file.write(np.ascontiguousarray(arrays[name], TYPES["F32"]).tobytes())


def stored_columns(path: Path) -> Mapping[str, StoredColumns]:
    """The arrays in a file that `join_blocks` wrote.

    Raises:
        ValueError: some are not of 32-bit floats.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    if others := {entry["dtype"] for entry in header.values()} - {*TYPES}:
        raise ValueError(f"{path}: numbers of type {min(others)}; expected 32-bit floats")
    return {
        name: StoredColumns(path, tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
        for name, entry in header.items()
    }


def pieces(array: Columns | StoredColumns, most: int) -> Iterator[tuple[int, np.ndarray]]:
    """All columns of an array in parts of at most so many numbers (or one column), each with its first column."""
    width, step = int(np.prod(array.shape[1:])), max(1, most // max(1, array.shape[0]))
    for first in range(0, width, step):
        yield first, array.columns(first, first + step)
