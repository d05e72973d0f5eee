"""Captions of a file scored by CHAIR, and the result file that attribution and the analyses read."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_hh.comparing.inputs import made_of
from llava_hh.comparing.summary import cell
from llava_hh.data.coco import load_objects
from llava_hh.files.files import Skip, json_rows, read_json, refuse, write_json
from llava_hh.files.progress import progress, say
from llava_hh.files.tables import Table, beside, print_table
from llava_hh.metrics.caption_scores import overall_metrics
from llava_hh.metrics.chair.datasets import Dataset, ImageId, load_dataset
from llava_hh.metrics.chair.nocaps import VARIANT as NOCAPS
from llava_hh.metrics.chair.words import drop_incomplete_sentence
from llava_hh.metrics.of_captions import METRICS
from llava_hh.runs.run import processes, provenance, share_out
from llava_hh.scoring.result import see_writable

NUMBERED = re.compile(r"(?:.*_)?(\d+)")  # COCO_val2014_000000000139


@dataclass(frozen=True)
class CaptionsFile:
    """Captions to score and their ground truth: the flags of these names.

    Args:
        annotations, objects: one of them is given.
    """

    captions: Path
    annotations: Path | None = None
    objects: Path | None = None
    dataset: str = "coco"
    variant: str = "hh"
    id_key: str | None = None
    text_key: str = "text"
    drop_incomplete: bool = False
    skip_bad: bool = False


def read_captions(given: CaptionsFile, dataset: Dataset, skip: Skip) -> list[tuple[int, dict[str, Any]]]:
    """Return the rows of a JSONL file as (row number from 1, row), with the id in `image_id` and the text in `caption`.

    Args:
        skip: takes one line for each bad row, which is left out; with None the first bad row is an error.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row without an id of `dataset` under `id_key` or a string under `text_key`; or no row at all.
    """
    rows = []
    for number, row in json_rows(given.captions, "JSON lines, one caption a row (--captions)", skip):
        try:
            rows.append((number, _caption_row(row, given.id_key, given.text_key, dataset)))
        except ValueError as error:
            refuse(f"{given.captions}, row {number}: {error}", skip)
    if not rows:
        raise ValueError(f"--captions {given.captions}: no caption to score; expected at least one row")
    return rows


def _caption_row(row: dict[str, Any], id_key: str | None, text_key: str, dataset: Dataset) -> dict[str, Any]:
    if id_key is None and "image_id" not in row and (found := _ids_elsewhere(row, dataset)):
        if len({*found.values()}) > 1:
            named = " and ".join(f"{key} {row[key]!r}" for key in found)
            raise ValueError(f"{named} are not one image; say by --id-key which counts")
        row = {**row, "image_id": next(iter(found.values()))}
    id_key = id_key or "image_id"
    for key, flag in ((id_key, "--id-key"), (text_key, "--text-key")):
        if key not in row:
            keys = " ".join(", ".join(sorted(row)).split()) or "none"
            raise ValueError(f"no key {key!r} ({flag}); its keys are {keys}")
    try:
        image_id, text = dataset.image_id(row[id_key]), row[text_key]
    except ValueError:
        raise ValueError(f"{id_key!r} (--id-key) is {row[id_key]!r}; expected {dataset.id_expected}") from None
    if not isinstance(text, str):
        raise ValueError(f"{text_key!r} (--text-key) is {text!r}; expected a string")
    return {**row, "image_id": image_id, "caption": text}


def _ids_elsewhere(row: dict[str, Any], dataset: Dataset) -> dict[str, ImageId]:
    """The ids of an image under question_id and in its file's name under image, of those that are there."""
    found = {}
    for key in ("question_id", "image"):
        value = row.get(key)
        if key == "image" and isinstance(value, str) and (numbered := NUMBERED.fullmatch(Path(value).stem)):
            value = numbered[1] if dataset.variant != NOCAPS else value
        with suppress(ValueError):
            found[key] = dataset.image_id(value)
    return found


def skipper(bad: list[str]) -> Skip:
    """A function that prints which row is skipped, and adds that line to `bad`."""

    def skip(problem: str) -> None:
        if processes().is_main:
            say(f"skipped: {problem}", file=sys.stderr)
        bad.append(problem)

    return skip


def table(metrics: Mapping[str, Any]) -> Table:
    """The overall metrics as a table of one row; shares in percent, with their intervals."""
    cells = {metric.head: cell(metrics, name) for name, metric in METRICS.items()}
    cells |= {"captions": str(metrics["n"]), "variant": metrics["variant"]}
    if "Bleu" in metrics:
        cells |= {"BLEU-4 %": f"{100 * metrics['Bleu'][3]:.1f}", "CIDEr": f"{metrics['CIDEr']:.3f}"}
    return Table(list(cells), [list(cells.values())], "In brackets: 95% bootstrap intervals over images.")


def score_captions(given: CaptionsFile, argv: Sequence[str], out: Path) -> dict[str, Any]:
    """Return the content of the result file `out`.

    Args:
        argv: the command, which the file keeps.
    """
    dataset = load_dataset(given.dataset, given.variant)
    bad: list[str] = []
    skip = skipper(bad) if given.skip_bad else None
    rows = read_captions(given, dataset, skip)
    references: dict[ImageId, list[str]] = {}
    source = given.objects or given.annotations
    if given.objects:
        truth = [given.objects]
        objects = load_objects(given.objects, dataset.image_id, dataset.category, skip)
    else:
        truth, image_ids = dataset.files(given.annotations), [row["image_id"] for _, row in rows]
        cache = out.with_name("ground_truth.json")
        known = dataset.annotations(given.annotations, image_ids, cache=cache, allow_missing=True, skip=skip)
        objects = dataset.objects(known)
        references = {image_id: of_image.captions for image_id, of_image in known.items()}
    for number, row in rows:
        if row["image_id"] not in objects:
            where = f"{given.captions}, row {number}"
            refuse(f"{where}: image {row['image_id']} has no ground truth in {source}", skip)
    kept = [row for _, row in rows if row["image_id"] in objects]
    if not kept:
        raise ValueError(f"--captions {given.captions}: every row was skipped; nothing to score")

    def score(share: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        cut = drop_incomplete_sentence if given.drop_incomplete else str
        shown = progress("CHAIR", "caption", share)
        return [{**row, **dataset.score(cut(row["caption"]), objects[row["image_id"]])} for row in shown]

    sentences = share_out(kept, score)
    captions = [references.get(entry["image_id"], []) for entry in sentences]
    overall = overall_metrics(sentences, dataset.variant, captions) | {"drop_incomplete": given.drop_incomplete}
    about = {name: getattr(given, name) for name in ("drop_incomplete", "id_key", "text_key")}
    about = {"argv": list(argv), "variant": dataset.variant, **about, "n_skipped": len(bad), "skipped": bad}
    return {"sentences": sentences, "overall_metrics": overall, "run": made_of((given.captions, *truth), **about)}


def refuse_scores_of_others(out: Path, captions: Path) -> None:
    """Check that a result file is not that of other captions, which would be overwritten.

    Raises:
        ValueError: it has the scores of other captions; names them.
    """
    scored = (read_json(out).get("run") or {}).get("sha256") if out.is_file() else None
    before = Path(next(iter(scored), captions.name)).name if isinstance(scored, dict) else captions.name
    if before != captions.name:
        raise ValueError(f"{out}: has the scores of {before}; give --out another file for those of {captions.name}")


def _timeless(result: Mapping[str, Any]) -> Any:
    """The content of a result file without its date, versions and machine."""
    made = {key: value for key, value in (result.get("run") or {}).items() if key not in {*provenance()}}
    return json.loads(json.dumps([result.get("sentences"), result.get("overall_metrics"), made]))


def score_file(given: CaptionsFile, argv: Sequence[str], out: Path, form: str) -> None:
    """Score a file, write the result file `out` unless it is the same already, and print the metrics.

    Args:
        argv: the command, which the file keeps; form: of the table, one of `llava_hh.files.tables.FORMATS`.
    Raises:
        ValueError: a file or row that cannot be scored, which it names; or `out` has the scores of other captions.
        OSError: another command is in the folder of `out`.
    """
    see_writable(out, filter(None, (given.captions, given.objects)))
    with processes().hold(out.parent):
        refuse_scores_of_others(out, given.captions)
        result = score_captions(given, argv, out)
        # the same scores are left as they are: then what was made of the file stays finished
        if processes().is_main and not (out.is_file() and _timeless(read_json(out)) == _timeless(result)):
            write_json(out, result)
    if not processes().is_main:
        return
    if n_skipped := result["run"]["n_skipped"]:
        say(f"{n_skipped} bad rows skipped", file=beside(form))
    print_table(table(result["overall_metrics"]), form)
    say(out, file=beside(form))
