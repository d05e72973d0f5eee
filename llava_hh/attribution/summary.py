"""Head lists, scores with intervals and stability of measured targets, in bounded memory.

Arrays of all targets stand in one file that is written and read in pieces, so memory does not grow with the captions.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llava_hh.attribution.contrast import influence, matched_objects, means_of_kinds, rank_heads
from llava_hh.attribution.sources import EMPTIED, MEASURED_SOURCES
from llava_hh.attribution.stability import bootstrap_interval, half_contrasts, overlap_of_halves
from llava_hh.files.files import replacing
from llava_hh.runs.blocks import Run

OVERLAP_AT = (1, 2, 5, 10, 20, 30)
NUMBERS_AT_ONCE = 1 << 22  # of an array that is scored
READ_AT_ONCE = 1 << 20  # numbers of a file
WITHOUT, SHARE = "without", "share"  # how the names of arrays of a source begin
READ_TEXT = ("after", "answer")
Marks = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # (target,) each; the third one for scores matched by object
FLOAT = np.dtype("<f4")  # F32 of safetensors


@dataclass(frozen=True)
class ArrayColumns:
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
    """An array (target, ...) of 32-bit floats in a safetensors file, seen as (target, column) and read in pieces."""

    path: Path
    shape: tuple[int, ...]
    offset: int  # of its first byte in the file

    def columns(self, first: int, last: int) -> np.ndarray:
        """Columns from `first` to before `last`, (target, column)."""
        n_targets, width = self.shape[0], int(np.prod(self.shape[1:]))
        values, step = np.empty((n_targets, min(last, width) - first), FLOAT), max(1, READ_AT_ONCE // width)
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            for start in range(0, n_targets, step):
                count = min(step, n_targets - start) * width
                values[start : start + step] = np.fromfile(file, FLOAT, count).reshape(-1, width)[:, first:last]
        return values


Columns = ArrayColumns | StoredColumns


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
        start, end = end, end + FLOAT.itemsize * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as part, open(part, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in header:
            for arrays in run.finished_arrays():
                file.write(np.ascontiguousarray(arrays[name], FLOAT).tobytes())


def stored_columns(path: Path) -> Mapping[str, StoredColumns]:
    """The arrays in a file that `join_blocks` wrote.

    Raises:
        ValueError: some are not of 32-bit floats.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    if others := {entry["dtype"] for entry in header.values()} - {"F32"}:
        raise ValueError(f"{path}: numbers of type {min(others)}; expected 32-bit floats")
    return {
        name: StoredColumns(path, tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
        for name, entry in header.items()
    }


def _pieces(array: Columns) -> Iterator[np.ndarray]:
    """All columns of an array in parts of at most NUMBERS_AT_ONCE numbers, or one column."""
    step = max(1, NUMBERS_AT_ONCE // max(1, array.shape[0]))
    for first in range(0, int(np.prod(array.shape[1:])), step):
        yield array.columns(first, first + step)


def marks_of(rows: Iterable[dict], match: str | None = None) -> Marks:
    """Of the targets in `rows`: whether each is hallucinated, bool; of which image; and its object, for `match`."""
    rows = list(rows)
    objects = np.array([row["node"] for row in rows]) if match else None
    return np.array([row["hallucinated"] for row in rows], bool), np.array([row["image_id"] for row in rows]), objects


def _best(contrast: np.ndarray, measured: np.ndarray, length: int) -> list[list[int]]:
    """The heads of largest contrast, (measured,), of those that were measured, (layer, head)."""
    names = np.argwhere(measured).tolist()
    return [names[column] for _, column in rank_heads(contrast[None], length)[0]]


class Scores:
    """Scores of heads or modules, from the log-probabilities of all targets under each ablation, column by column.

    Args:
        marks: of the targets, as `marks_of` returns them.
        halved: keep the scores in halves of the images too.
    Attributes:
        measured: (...) bool, the ablations that were measured at every target.
        contrast, low, high, of_hallucinated, of_others: (measured,) float64.
        halves: (split, half, measured), as `half_contrasts` returns them; None unless asked for.
    """

    def __init__(self, clean: np.ndarray, ablated: Columns, marks: Marks, read_out: str, halved: bool) -> None:
        scores, halves, measured, (hallucinated, _, objects) = [], [], [], marks
        for columns in _pieces(ablated):
            measured.append(everywhere := ~np.isnan(columns).any(0))
            if not everywhere.any():  # few heads are on a shortlist
                continue
            influences = influence(clean, columns[:, everywhere], read_out)
            means = means_of_kinds(influences, hallucinated, objects)
            scores.append(np.stack([means[0] - means[1], *bootstrap_interval(influences, *marks), *means]))
            if halved:
                halves.append(half_contrasts(influences, *marks))
        self.measured = np.concatenate(measured).reshape(ablated.shape[1:])
        self.contrast, self.low, self.high, self.of_hallucinated, self.of_others = np.concatenate(scores, axis=1)
        self.halves = np.concatenate(halves, axis=2) if halves else None

    def nested(self, values: np.ndarray) -> list:
        """Values of what was measured as nested lists of the ablations' shape, None elsewhere."""
        whole = np.full(self.measured.shape, None, dtype=object)
        whole[self.measured] = values.tolist()
        return whole.tolist()

    def listed(self, length: int) -> dict:
        """`hal_heads`, the best of what was measured, and the scores, JSON-ready."""
        return {"hal_heads": _best(self.contrast, self.measured, length), **self.record()}

    def record(self) -> dict:
        """The scores, JSON-ready, as nested lists of the ablations' shape; None where it was not measured."""
        return {
            "contrastive_influence": self.nested(self.contrast),
            "interval": {"contrastive_influence": [self.nested(self.low), self.nested(self.high)]},
            "influence_hallucinated": self.nested(self.of_hallucinated),
            "influence_true": self.nested(self.of_others),
        }


def adds_up(ablation: str, read_out: str, renormalise: bool) -> bool:
    """Whether what a head does by reading each source is a part of what it does as a whole, to first order."""
    return ablation == "zero" and read_out != "absolute" and not renormalise


def counted_words(result: Mapping[str, Any]) -> str:
    """How many words the scores of a result are of, in words: object words of captions, or those that were labelled."""
    kept, labels = result.get("matched", result), result.get("settings", {}).get("labels")
    same = f" of the same {len(kept['objects'])} objects" if "objects" in kept else ""
    counts = kept["n_hallucinated_words"], kept["n_true_words"]
    if labels is None:
        where = f"in {result['n_captions']} captions"
        return f"{counts[0]} hallucinated and {counts[1]} true object words{same} {where}"
    return f"{counts[0]} {labels[0]} and {counts[1]} {labels[1]} words{same} about {result['n_captions']} images"


def summarise(
    marks: Marks, log_probs: Mapping[str, Columns], read_out: str, list_length: int, is_sum: bool = True
) -> dict:
    """Head lists, scores with intervals and stability of measured targets, JSON-ready.

    Where some heads were not measured at all targets, their scores are None. The list of weakest heads and the
    stability of the list, which are about all heads, are then left out. Memory is bounded by NUMBERS_AT_ONCE and the
    number of targets.

    Args:
        marks: of the targets, as `marks_of` returns them.
        log_probs: `clean` (target,), `heads` (target, layer, head), NaN where it was not measured, and maybe `mha` and
            `mlp` (target, layer), by source `without_image` and `share_image` (target, layer, head) and so on, and
            `direct` (target, layer, head).
        is_sum: whether parts by source can add up to the whole (`adds_up`).
    Raises:
        ValueError: no hallucinated or no true word; or none of the same object, if matched.
    """
    clean, (hallucinated, image_ids, objects) = log_probs["clean"].columns(0, 1)[:, 0], marks
    heads = Scores(clean, log_probs["heads"], marks, read_out, halved=True)
    names = np.argwhere(heads.measured).tolist()
    best, worst = ([names[column] for _, column in ranked] for ranked in rank_heads(heads.contrast[None], list_length))
    result = {"hal_heads": best, **heads.record()}
    if heads.measured.all():
        ks = [k for k in OVERLAP_AT if k < heads.contrast.size]
        result |= {"non_hal_heads": worst, "stability": {"half_overlap": overlap_of_halves(heads.halves, ks)}}
    modules = {
        kind: Scores(clean, log_probs[kind], marks, read_out, halved=False).record()
        for kind in ("mha", "mlp")
        if kind in log_probs
    }
    if sources := [name for name in MEASURED_SOURCES if f"{WITHOUT}_{name}" in log_probs]:
        result["sources"], gap = _of_sources(sources, heads, marks, log_probs, read_out, list_length)
        result["sources"] |= {"gap": gap} if is_sum else {}
    if "direct" in log_probs:
        result["direct"] = Scores(clean, log_probs["direct"], marks, read_out, halved=False).listed(list_length)
    return {
        **result,
        **({"modules": modules} if modules else {}),
        **({} if objects is None else {"matched": _matched(hallucinated, objects)}),
        "read_out": read_out,
        "n_hallucinated_words": int(hallucinated.sum()),
        "n_true_words": int((~hallucinated).sum()),
        "n_captions": len(set(image_ids.tolist())),
    }


def _matched(hallucinated: np.ndarray, objects: np.ndarray) -> dict:
    names = matched_objects(hallucinated, objects)
    kept = np.isin(objects, names)
    counts = [int((kept & kind).sum()) for kind in (hallucinated, ~hallucinated)]
    return {"objects": names.tolist(), "n_hallucinated_words": counts[0], "n_true_words": counts[1]}


def _of_sources(
    sources: list[str],
    heads: Scores,
    marks: Marks,
    log_probs: Mapping[str, Columns],
    read_out: str,
    list_length: int,
) -> tuple[dict, list]:
    """What heads do by reading each source: scores, list and attention; and how far that does not add up.

    Returns: `by_source`, and `text_heads`, ranked by the sum of what they do by reading READ_TEXT; and the whole head's
        contrastive influence without the sum of its parts, (layer, head).
    """
    clean, (hallucinated, _, objects), content = log_probs["clean"].columns(0, 1)[:, 0], marks, {}
    contrasts = {}
    for source in sources:
        scores = Scores(clean, log_probs[f"{WITHOUT}_{source}"], marks, read_out, halved=False)
        contrasts[source] = scores.contrast
        content[source] = scores.listed(list_length)
        shares, emptied = [], 0
        for part in _pieces(log_probs[f"{SHARE}_{source}"]):
            shares.append(means_of_kinds(part, hallucinated, objects))
            emptied += int((part > 1 - EMPTIED).sum())
        content[source]["emptied"] = emptied
        for name, values in zip(("attention_hallucinated", "attention_true"), np.concatenate(shares, 1), strict=True):
            content[source][name] = heads.nested(values[heads.measured.reshape(-1)])
    read = sum(contrasts[source] for source in READ_TEXT if source in contrasts)
    text_heads = _best(np.asarray(read), heads.measured, list_length)
    return {"by_source": content, "text_heads": text_heads}, heads.nested(heads.contrast - sum(contrasts.values()))
