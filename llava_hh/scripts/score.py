"""Score captions and answers that are there already, whoever made them."""

import argparse
from functools import partial

from llava_hh.command_line.parser import FILE, FOLDER, METHOD, MODEL, OUTPUT, ScriptParser
from llava_hh.command_line.script import add_format_flag, chosen, parser_of_verbs, run_verb
from llava_hh.metrics.chair.datasets import DATASETS
from llava_hh.metrics.chair.variants import VARIANTS
from llava_hh.scripts.flags import ANNOTATIONS, ATTRIBUTED, add_truth_flags, by


def score_chair(args: argparse.Namespace) -> None:
    """Score captions by CHAIR: the objects that each names, and those of them that are not in the image (paper).

    The objects are COCO's 80 categories, or with --dataset nocaps 90 coarse classes of Open Images.

    Writes one JSON file, which attribution and the analyses read. Its `sentences` have an entry for every caption: its
    row, and its objects, right and hallucinated, with their positions in the text. Its `overall_metrics` are fractions,
    with BLEU and CIDEr where there are reference captions. Its `run` says how it was made.
    """
    from llava_hh.runs.scored import result_of
    from llava_hh.scoring.captions import CaptionsFile
    from llava_hh.scoring.chair import score_file

    out = args.out or result_of(args.captions)
    score_file(chosen(CaptionsFile, args), args.argv, out, args.format)


def score_benchmark(args: argparse.Namespace) -> None:
    """Score answers by AMBER or by MME's hallucination subset, from these benchmarks' published files."""
    from llava_hh.scoring.benchmarks import score_file

    score_file(args.benchmark, args.answers, args.annotations, args.argv, args.out)


def score_vqa(args: argparse.Namespace) -> None:
    """Score short answers to questions about images: VQA accuracy against VQAv2's annotations, exact match on GQA's.

    Writes one JSON file: `overall_metrics` (accuracy, a fraction, with its interval; by type of answer where the truth
    has types) and `questions`, a row each.
    """
    from llava_hh.scoring.answers import score_file

    score_file(args.answers, args.truth, args.id_key, args.text_key, args.subset, args.out)


def add_chair(parser: ScriptParser) -> None:
    chair = parser.verb("chair", score_chair, "llava-hh score chair --captions my.jsonl --profile mini")
    add = chair.flags(MODEL)
    text = "JSON lines, one caption a row, a JSON list of such rows, or a JSON object from ids to captions"
    add("--captions", FILE, text, f"{ATTRIBUTED}/captions.jsonl", required=True)
    add("--dataset", DATASETS, "what the captions are of", default="coco")
    text = (
        "key of the image's id in a row (nocaps: or of its file's name); image_id by default, else question_id or image"
    )
    add("--id-key", "KEY", text)
    add("--text-key", "KEY", "key of the caption in a row", default="text")
    add_truth = chair.one_of(MODEL, required=True)
    text = "folder of COCO's captions_*.json and instances_*.json, or nocaps'"
    add_truth("--annotations", FOLDER, text, by("dataset", ANNOTATIONS))
    add_truth_flags(add_truth)
    add = chair.flags(METHOD)
    add("--variant", "NAME", f"CHAIR on COCO, one of: {', '.join(VARIANTS)}; hh is the paper's", default="hh")
    add("--synonyms", FILE, "JSON from categories of your own to the words for each, instead of COCO's")
    add("--drop-incomplete", bool, "score captions without an unfinished last sentence")
    add("--skip-bad", bool, "report, count and skip a bad row of captions or ground truth, where it would stop the run")
    text = "result file; captions_eval_results.json beside the captions, or one named after theirs, by default"
    chair.flags(OUTPUT)("--out", FILE, text)
    add_format_flag(chair)


def add_benchmark(parser: ScriptParser) -> None:
    example = "llava-hh score benchmark --benchmark amber --answers answers.jsonl --annotations AMBER/data"
    benchmark = parser.verb("benchmark", score_benchmark, example)
    add = benchmark.flags(MODEL)
    add("--benchmark", ("amber", "mme"), "whose files and metrics", required=True)
    add("--answers", FILE, "JSON lines: question_id and text, for MME prompt as well", required=True)
    add("--annotations", FOLDER, "AMBER's data folder, or MME's release folder", required=True)
    benchmark.flags(OUTPUT)("--out", FILE, "result file; <benchmark>_results.json beside the answers by default")


def add_vqa(parser: ScriptParser) -> None:
    example = "llava-hh score vqa --answers my.jsonl --truth v2_mscoco_val2014_annotations.json"
    vqa = parser.verb("vqa", score_vqa, example)
    add = vqa.flags(MODEL)
    add("--answers", FILE, "JSON lines, one answer a row", required=True)
    add("--truth", FILE, "VQAv2's v2_mscoco_*_annotations.json, or GQA's *_questions.json", required=True)
    add("--id-key", "KEY", "key of the question's id in a row", default="question_id")
    add("--text-key", "KEY", "key of the answer in a row", default="text")
    add("--subset", bool, "score the answered questions alone, where others stop the run")
    vqa.flags(OUTPUT)("--out", FILE, "result file; vqa_results.json beside the answers by default")


def parser() -> ScriptParser:
    """The flags of `llava-hh score`."""
    return parser_of_verbs(__doc__, "score", add_chair, add_benchmark, add_vqa)


main = partial(run_verb, parser=parser)

if __name__ == "__main__":
    main()
