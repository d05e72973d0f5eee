"""Score captions and answers that are there already, whoever made them."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from llava_hh.command_line.parser import METHOD, MODEL, OUTPUT, ScriptParser
from llava_hh.command_line.script import add_format_flag, chosen, parser_of_verbs, run_verb
from llava_hh.metrics.chair.datasets import DATASETS
from llava_hh.metrics.chair.variants import VARIANTS
from llava_hh.scripts.flags import ANNOTATIONS, ATTRIBUTED, by

CHAIR = """Score captions by CHAIR: the objects that each names, and those of them that are not in the image (paper).

The objects are COCO's 80 categories, or with --dataset nocaps 90 coarse classes of Open Images.

Writes one JSON file, which attribution and the analyses read: `sentences` (one entry a caption: its row, and the
objects it names, right and hallucinated, with their places in the text), `overall_metrics` (fractions; BLEU and CIDEr
too where there are reference captions) and `run`.
"""
BENCHMARK = "Score answers by AMBER or by MME's hallucination subset, from these benchmarks' published files."
VQA = """Score short answers to questions about images: VQA accuracy against VQAv2's annotations, exact match on GQA's.

Writes one JSON file: `overall_metrics` (accuracy, a fraction, with its interval; by type of answer where the truth has
types) and `questions`, a row each.
"""


def score_chair(args: argparse.Namespace) -> None:
    from llava_hh.scoring.chair import CaptionsFile, score_file

    out = args.out or args.captions.with_name("captions_eval_results.json")
    score_file(chosen(CaptionsFile, args), args.argv, out, args.format)


def score_benchmark(args: argparse.Namespace) -> None:
    from llava_hh.scoring.benchmarks import score_file

    score_file(args.benchmark, args.answers, args.annotations, args.argv, args.out)


def score_vqa(args: argparse.Namespace) -> None:
    from llava_hh.scoring.answers import score_file

    score_file(args.answers, args.truth, args.id_key, args.text_key, args.subset, args.out)


def add_chair(parser: ScriptParser) -> None:
    chair = parser.verb("chair", score_chair, CHAIR, "llava-hh score chair --captions my.jsonl --profile mini")
    section = chair.section(MODEL)
    add, text = section.add_argument, "JSON lines, one caption a row; any further fields are kept"
    add("--captions", type=Path, metavar="FILE", required=True, help=text)
    add("--dataset", choices=DATASETS, default="coco", help="what the captions are of")
    text = "key of the image's id in a row (nocaps: or of its file's name)"
    add("--id-key", metavar="KEY", default="image_id", help=text)
    add("--text-key", metavar="KEY", default="text", help="key of the caption in a row")
    truth = section.add_mutually_exclusive_group(required=True)
    text = "folder of COCO's captions_*.json and instances_*.json, or nocaps'"
    truth.add_argument("--annotations", type=Path, metavar="FOLDER", help=text)
    text = "instead: JSON lines with image_id and objects (names)"
    truth.add_argument("--objects", type=Path, metavar="FILE", help=text)
    add = chair.section(METHOD).add_argument
    text = f"CHAIR on COCO, one of: {', '.join(VARIANTS)}; hh is the paper's"
    add("--variant", metavar="NAME", default="hh", help=text)
    add("--drop-incomplete", action="store_true", help="score captions without an unfinished last sentence")
    text = "report, count and skip a bad row of captions or ground truth, where it would stop the run"
    add("--skip-bad", action="store_true", help=text)
    text = "result file; captions_eval_results.json beside the captions by default"
    chair.section(OUTPUT).add_argument("--out", type=Path, metavar="FILE", help=text)
    add_format_flag(chair)
    chair.take_from_profile(captions=f"{ATTRIBUTED}/captions.jsonl", annotations=by("dataset", ANNOTATIONS))


def add_benchmark(parser: ScriptParser) -> None:
    example = "llava-hh score benchmark --benchmark amber --answers answers.jsonl --annotations AMBER/data"
    benchmark = parser.verb("benchmark", score_benchmark, BENCHMARK, example)
    add = benchmark.section(MODEL).add_argument
    add("--benchmark", choices=("amber", "mme"), required=True, help="whose files and metrics")
    text = "JSON lines: question_id and text, for MME prompt as well"
    add("--answers", type=Path, metavar="FILE", required=True, help=text)
    text = "AMBER's data folder, or MME's release folder"
    add("--annotations", type=Path, metavar="FOLDER", required=True, help=text)
    text = "result file; <benchmark>_results.json beside the answers by default"
    benchmark.section(OUTPUT).add_argument("--out", type=Path, metavar="FILE", help=text)


def add_vqa(parser: ScriptParser) -> None:
    example = "llava-hh score vqa --answers my.jsonl --truth v2_mscoco_val2014_annotations.json"
    vqa = parser.verb("vqa", score_vqa, VQA, example)
    add = vqa.section(MODEL).add_argument
    add("--answers", type=Path, metavar="FILE", required=True, help="JSON lines, one answer a row")
    text = "VQAv2's v2_mscoco_*_annotations.json, or GQA's *_questions.json"
    add("--truth", type=Path, metavar="FILE", required=True, help=text)
    add("--id-key", metavar="KEY", default="question_id", help="key of the question's id in a row")
    add("--text-key", metavar="KEY", default="text", help="key of the answer in a row")
    add("--subset", action="store_true", help="score the answered questions alone, where others stop the run")
    text = "result file; vqa_results.json beside the answers by default"
    vqa.section(OUTPUT).add_argument("--out", type=Path, metavar="FILE", help=text)


def parser() -> ScriptParser:
    """The flags of `llava-hh score`."""
    return parser_of_verbs(__doc__, "score", add_chair, add_benchmark, add_vqa)


def main(argv: Sequence[str] | None = None) -> None:
    run_verb(parser(), argv)


if __name__ == "__main__":
    main()
