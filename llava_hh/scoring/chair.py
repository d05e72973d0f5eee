"""Captions of a file scored by CHAIR, and the result file that attribution and the analyses read."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_hh.comparing.inputs import made_of
from llava_hh.comparing.summary import cell
from llava_hh.data.own import load_vocabulary, names_in, own_objects
from llava_hh.files.files import Skip, read_json, refuse, write_json
from llava_hh.files.progress import announce, progress, say
from llava_hh.files.tables import Table, beside, print_table
from llava_hh.metrics.caption_scores import overall_metrics
from llava_hh.metrics.chair.datasets import Dataset, ImageId, load_dataset, own_dataset
from llava_hh.metrics.chair.words import drop_incomplete_sentence
from llava_hh.metrics.of_captions import METRICS
from llava_hh.runs.run import processes, provenance, share_out
from llava_hh.runs.scored import scored_file
from llava_hh.scoring.captions import CaptionsFile, read_captions, with_known_id
from llava_hh.scoring.result import see_writable


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
    dataset = dataset_of(given)
    bad: list[str] = []
    cache = out.with_name("ground_truth.json")
    sentences, references = score_rows(given, dataset, cache, skipper(bad) if given.skip_bad else None)
    captions = [references.get(entry["image_id"], []) for entry in sentences]
    overall = overall_metrics(sentences, dataset.variant, captions) | {"drop_incomplete": given.drop_incomplete}
    about = {name: getattr(given, name) for name in ("drop_incomplete", "id_key", "text_key")}
    about |= {} if given.truth is None else {"truth": names_in(given.truth)}
    about = {"argv": list(argv), "variant": dataset.variant, **about, "n_skipped": len(bad), "skipped": bad}
    truth = [given.objects] if given.annotations is None else dataset.files(given.annotations)
    files = filter(None, (given.captions, *truth, given.synonyms))
    return {"sentences": sentences, "overall_metrics": overall, "run": made_of(files, **about)}


def score_rows(
    given: CaptionsFile, dataset: Dataset, cache: Path, skip: Skip
) -> tuple[list[dict[str, Any]], dict[ImageId, list[str]]]:
    """The rows of a file of captions with their CHAIR, and the reference captions of images.

    Args:
        cache, skip: see `load_truth`; `skip` takes bad rows of the captions too.
    """
    rows = read_captions(given, dataset, skip)
    objects, references = load_truth(given, dataset, [row["image_id"] for _, row in rows], cache, skip)
    if given.annotations is None:
        rows = [(number, with_known_id(row, objects.keys())) for number, row in rows]
    for number, row in rows:
        if row["image_id"] not in objects:
            where, source = f"{given.captions}, row {number}", given.objects or given.annotations
            refuse(f"{where}: image {row['image_id']} has no ground truth in {source}", skip)
    kept = [row for _, row in rows if row["image_id"] in objects]
    if not kept:
        raise ValueError(f"--captions {given.captions}: every row was skipped; nothing to score")

    def score(share: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        cut = drop_incomplete_sentence if given.drop_incomplete else str
        for row in progress("CHAIR", "caption", share):
            row |= dataset.score(cut(row["caption"]), set(objects[row["image_id"]]))
        return list(share)

    return share_out(kept, score), references


def load_truth(
    given: CaptionsFile, dataset: Dataset, image_ids: Sequence[ImageId], cache: Path, skip: Skip
) -> tuple[dict[ImageId, tuple[str, ...]], dict[ImageId, list[str]]]:
    """The objects in each image, and its reference captions where there are annotations.

    Objects are tuples, which take a fifth of a set's memory.

    Args:
        cache: see `llava_hh.data.coco.load_annotations`.
        skip: takes one line for each bad row, which is left out; None: it is an error.
    """
    if given.annotations is None:
        shown = own_objects(given.objects, given.truth, image_ids, dataset.category, dataset.image_id, skip)
        references = {}
    else:
        known = dataset.annotations(given.annotations, image_ids, cache=cache, allow_missing=True, skip=skip)
        shown = dataset.objects(known)
        references = {image_id: of_image.captions for image_id, of_image in known.items()}
    return {image_id: tuple(objects) for image_id, objects in shown.items()}, references


def dataset_of(given: CaptionsFile) -> Dataset:
    """The rules that captions are scored by; where the user says what is in the images, their ids may be any text.

    Raises:
        ValueError: synonyms beside a variant or a data set that has its own, or a file of another form.
    """
    if given.synonyms:
        if (given.dataset, given.variant) != ("coco", "hh"):
            raise ValueError("--synonyms: are rules of their own; leave --dataset and --variant out")
        try:
            return own_dataset(vocabulary=load_vocabulary(given.synonyms))
        except ValueError as error:
            raise ValueError(f"--synonyms {error}") from None
    is_own = given.annotations is None and given.dataset == "coco"
    return own_dataset(given.variant) if is_own else load_dataset(given.dataset, given.variant)


def refuse_scores_of_others(out: Path, captions: Path) -> None:
    """Check that a result file is not that of other captions or of a comparison's run, which would be overwritten.

    Raises:
        ValueError: it is; says whose scores it has.
    """
    before = scored_file(out) if out.is_file() else captions.name
    if before != captions.name:
        raise ValueError(f"{out}: has the scores of {before}; give --out another file for those of {captions.name}")
    if out.is_file() and "kind" in read_json(out):
        what = "has the scores of a run of evaluate, which other results are made of"
        raise ValueError(f"{out}: {what}; give --out another file, such as {captions.stem}_scored_again.json")


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
    see_writable(out, filter(None, (given.captions, given.objects, given.synonyms)))
    with processes().hold(out.parent):
        refuse_scores_of_others(out, given.captions)
        result = score_captions(given, argv, out)
        # the same scores are left as they are: then what was made of the file stays finished
        if out.is_file() and _timeless(read_json(out)) == _timeless(result):
            announce(f"finished before: {out}")
        elif processes().is_main:
            write_json(out, result)
    if not processes().is_main:
        return
    if n_skipped := result["run"]["n_skipped"]:
        say(f"{n_skipped} bad rows skipped", file=beside(form))
    print_table(table(result["overall_metrics"]), form)
    say(out, file=beside(form))
