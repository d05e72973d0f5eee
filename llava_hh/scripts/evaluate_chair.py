"""Score captions by CHAIR: which objects each names, and which of them are not in the image (paper, CHAIR tables).

The objects are COCO's 80 categories, or with --dataset nocaps 90 coarse classes of Open Images.

Writes one JSON file, which attribution and the analyses read: `sentences` (one entry a caption: its row, and the
objects it names, right and hallucinated, with their places in the text), `overall_metrics` (fractions; BLEU and CIDEr
too where there are reference captions) and `run`.
"""

import argparse
import sys
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llava_hh.command_line import errors_in_one_line, script_parser
from llava_hh.comparison import SHOWN, cell
from llava_hh.data.coco import load_objects
from llava_hh.datasets import DATASETS, Dataset, ImageId, load_dataset
from llava_hh.files import Skip, json_rows, printable, refuse, sha256, write_json
from llava_hh.metrics.caption_scores import score_against_references
from llava_hh.metrics.chair import corpus_metrics
from llava_hh.metrics.compare import summarise
from llava_hh.metrics.variants import VARIANTS
from llava_hh.metrics.words import drop_incomplete_sentence
from llava_hh.runs import make_parent, processes, provenance, share_out
from llava_hh.tables import Table, print_table

Bad = list[str]  # one line for each row that was skipped


def read_captions(
    path: Path, id_key: str, text_key: str, dataset: Dataset, bad: Bad | None = None
) -> list[tuple[int, dict[str, Any]]]:
    """Return the rows of a JSONL file as (row number from 1, row), with the id in `image_id` and the text in `caption`.

    Args:
        bad: a list takes one line for each bad row, which is left out; with None the first bad row is an error.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row without an id of `dataset` under `id_key` or a string under `text_key`; or no row at all.
    """
    rows, skip = [], skipper(bad)
    for number, row in json_rows(path, "JSON lines, one caption a row (--captions)", skip):
        try:
            rows.append((number, _caption_row(row, id_key, text_key, dataset)))
        except ValueError as error:
            refuse(f"{path}, row {number}: {error}", skip)
    if not rows:
        raise ValueError(f"--captions {path}: no caption to score; expected at least one row")
    return rows


def _caption_row(row: dict[str, Any], id_key: str, text_key: str, dataset: Dataset) -> dict[str, Any]:
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


def keep_rows_with_truth(
    rows: Sequence[tuple[int, dict[str, Any]]], known: Container[int], source: tuple[Path, Path], bad: Bad | None = None
) -> list[dict[str, Any]]:
    """Return the rows of images that have ground truth.

    Args:
        source: captions and ground truth, for the message of an image without ground truth.
    Raises:
        ValueError: an image that `known` lacks, unless `bad` is a list.
    """
    kept = []
    for number, row in rows:
        if row["image_id"] in known:
            kept.append(row)
        else:
            captions, truth = source
            refuse(f"{captions}, row {number}: image {row['image_id']} has no ground truth in {truth}", skipper(bad))
    return kept


def skipper(bad: Bad | None) -> Skip:
    """What notes in `bad`, and says, which row is skipped; None where a bad row is an error."""

    def skip(problem: str) -> None:
        if processes().is_main:
            tqdm.write(f"skipped: {printable(problem)}", file=sys.stderr)
        bad.append(problem)

    return None if bad is None else skip


def table(metrics: Mapping[str, Any]) -> Table:
    """The overall metrics as a table of one row; shares in percent, with their intervals."""
    cells = {head: cell(metrics, name) for name, (head, _) in SHOWN.items()}
    cells |= {"captions": str(metrics["n"]), "variant": metrics["variant"]}
    if "Bleu" in metrics:
        cells |= {"BLEU-4 %": f"{100 * metrics['Bleu'][3]:.1f}", "CIDEr": f"{metrics['CIDEr']:.3f}"}
    return Table(list(cells), [list(cells.values())], "In brackets: 95% bootstrap intervals over images.")


def evaluate(args: argparse.Namespace, argv: Sequence[str], out: Path) -> dict[str, Any]:
    """Score the captions that `args` names and return the content of the result file `out`."""
    dataset = load_dataset(args.dataset, args.variant)
    bad: Bad | None = [] if args.skip_bad else None
    rows = read_captions(args.captions, args.id_key, args.text_key, dataset, bad)
    references: dict[ImageId, list[str]] = {}
    if args.objects:
        truth = [args.objects]
        objects = load_objects(args.objects, dataset.image_id, dataset.category, skipper(bad))
    else:
        truth, image_ids = dataset.files(args.annotations), [row["image_id"] for _, row in rows]
        cache = out.with_name("ground_truth.json")
        annotations = dataset.annotations(args.annotations, image_ids, cache, allow_missing=True, skip=skipper(bad))
        objects = dataset.objects(annotations)
        references = {image_id: found.captions for image_id, found in annotations.items()}
    kept = keep_rows_with_truth(rows, objects, (args.captions, args.objects or args.annotations), bad)
    if not kept:
        raise ValueError(f"--captions {args.captions}: every row was skipped; nothing to score")

    def score(share: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        cut = drop_incomplete_sentence if args.drop_incomplete else str
        return [
            {**row, **dataset.score(cut(row["caption"]), objects[row["image_id"]])}
            for row in tqdm(share, desc="CHAIR", unit="caption", disable=not processes().is_main)
        ]

    sentences = share_out(kept, score)
    overall = {**corpus_metrics(sentences, dataset.variant), "drop_incomplete": args.drop_incomplete}
    overall["interval"] = summarise(sentences)["interval"]
    if all(references.get(entry["image_id"]) for entry in sentences):
        captions = [entry["caption"] for entry in sentences]
        overall |= score_against_references(captions, [references[entry["image_id"]] for entry in sentences])
    return {
        "sentences": sentences,
        "overall_metrics": overall,
        "run": {
            **provenance(),
            "argv": list(argv),
            "variant": dataset.variant,
            "drop_incomplete": args.drop_incomplete,
            "id_key": args.id_key,
            "text_key": args.text_key,
            "n_skipped": len(bad or ()),
            "skipped": bad or [],
            "sha256": {str(path): sha256(path) for path in (args.captions, *truth)},
        },
    }


def parser() -> argparse.ArgumentParser:
    """Return the command line of this script."""
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("--captions", type=Path, required=True, help="JSON lines, one caption a row; any further fields are kept")
    add("--dataset", choices=DATASETS, default="coco", help="what the captions are of")
    add("--id-key", default="image_id", help="key of the image's id in a row (nocaps: or of its file's name)")
    add("--text-key", default="text", help="key of the caption in a row")
    truth = parser.add_mutually_exclusive_group(required=True)
    truth.add_argument(
        "--annotations", type=Path, help="folder of COCO's captions_*.json and instances_*.json, or nocaps'"
    )
    truth.add_argument("--objects", type=Path, help="instead: JSON lines with image_id and objects (names)")
    add("--out", type=Path, help="result file; captions_eval_results.json beside the captions by default")
    add("--variant", default="hh", help=f"CHAIR on COCO, one of: {', '.join(VARIANTS)}; hh is the paper's")
    add("--drop-incomplete", action="store_true", help="score captions without an unfinished last sentence")
    bad = "report, count and skip a bad row of captions or ground truth, where it would stop the run"
    add("--skip-bad", action="store_true", help=bad)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    argv = list(sys.argv[1:] if argv is None else argv)
    args = parser().parse_args(argv)
    out = args.out or args.captions.with_name("captions_eval_results.json")
    with errors_in_one_line(args.debug):
        if out.resolve() in {path.resolve() for path in (args.captions, args.objects) if path}:
            raise ValueError(f"--out {out}: is an input of this run; expected another file")
        make_parent(out)
        result = evaluate(args, argv, out)
        if not processes().is_main:
            return
        write_json(out, result)
    if result["run"]["n_skipped"]:
        print(f"{result['run']['n_skipped']} bad rows skipped")
    print_table(table(result["overall_metrics"]))
    print(out)


if __name__ == "__main__":
    main()
