"""Compare what is finished: runs, head lists, seeds, or the objects that are hallucinated."""

import argparse
from functools import partial
from pathlib import Path

from llava_hh.command_line.numbers import COUNT, RANDOM_SEED, SIZE
from llava_hh.command_line.parser import FILE, FOLDER, METHOD, MODEL, OUTPUT, ScriptParser
from llava_hh.command_line.script import add_format_flag, chosen, parser_of_verbs, run_verb
from llava_hh.comparing.comparable import LIFTABLE
from llava_hh.metrics.chair.datasets import DATASETS
from llava_hh.metrics.of_captions import METRICS
from llava_hh.runs.scored import RESULT_FILE
from llava_hh.scripts.flags import COMPARED, add_out_flag


def compare_runs(args: argparse.Namespace) -> None:
    """Compare finished runs with the first of them: paired statistics, and images where a run does better or worse.

    Runs are result folders or captions.jsonl files, of the same images. What was made or scored in other ways is
    refused. Writes comparison.json.
    """
    from llava_hh.comparing.runs import Comparison, compare_runs

    compare_runs(chosen(Comparison, args), args.out, args.format)


def compare_heads(args: argparse.Namespace) -> None:
    """Compare head lists: heads in common, rank correlation of scores, and which heads they share.

    Each list is the attribution_result.json of a run, or a file of checkpoints/heads. Beside the heads that two lists
    have in common stands how many the lists of two halves of their images have in common. Where that is as little, the
    cause may be few captions rather than different data sets.
    """
    from llava_hh.comparing.heads import compare_heads

    compare_heads(args.lists, args.top_k, args.out)


def compare_seeds(args: argparse.Namespace) -> None:
    """How far CHAIR and recall vary over runs that differ in their seed alone: mean, standard deviation, range.

    Each run is a folder with the captions_eval_results.json of one seed: a fine-tuned model, a model trained anew, a
    draw of random heads. All are on the same images. They are compared with one run, or with one for each seed.
    """
    from llava_hh.comparing.seeds import compare_seeds

    compare_seeds(args.runs, args.reference, args.out, args.format)


def compare_details(args: argparse.Namespace) -> None:
    """CHAIR in detail: which objects are hallucinated and missed, beside what, and where in the caption.

    Reads the captions_eval_results.json of one run or of several on the same images (greedy decoding and AD-HH, say).
    Writes chair_details.json and three figures: chair_categories, chair_cooccurrence, chair_positions.
    """
    from llava_hh.comparing.details import compare_details
    from llava_hh.figures.chair_details import PICTURES
    from llava_hh.figures.style import picture

    if source := compare_details(args.captions, args.out):
        for stem, draw in PICTURES.items():
            with picture(args.out / stem, args.debug) as out:
                draw(source, out)


def add_runs(parser: ScriptParser) -> None:
    example = "llava-hh compare runs results/mini/quick/val2014-60-seed42/greedy my_captions.jsonl --across record"
    runs = parser.verb("runs", compare_runs, example)
    text = "result folder or captions.jsonl; the first is the reference"
    runs.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=text)
    add, metrics = runs.flags(METHOD), tuple(METRICS)
    add("--across", LIFTABLE, "what the runs may differ in", nargs="+", default=[])
    add("--metrics", metrics, "those to test; Holm's correction is over them", nargs="+", default=metrics)
    text = "score all captions here by these annotations, where their own scores are taken otherwise"
    add("--annotations", FOLDER, text)
    add("--dataset", DATASETS, "with --annotations: what the images are of", default="coco")
    add("--variant", "NAME", "with --annotations: the variant of CHAIR", default="hh")
    add("--seed", RANDOM_SEED, "of resamples and permutations", default=0)
    add = runs.flags(OUTPUT)
    add("--examples", COUNT, "images to show where a run names fewer objects wrongly, and more", default=3)
    add("--out", FILE, "result file; comparison.json beside the folder of the reference by default")
    add_format_flag(runs)


def add_heads(parser: ScriptParser) -> None:
    example = "llava-hh compare heads results/seed_1/heads.json results/seed_2/heads.json"
    heads = parser.verb("heads", compare_heads, example)
    lists = "{head_list} {published_heads}"
    heads.add_flag(heads, "lists", "LIST", "head lists, two or more", lists, type=Path, nargs="+")
    heads.flags(METHOD)("--top-k", SIZE, "how many heads of each list are named", default=20)
    heads.flags(OUTPUT)("--out", FILE, "write all of it to this JSON file")


def add_seeds(parser: ScriptParser) -> None:
    example = "llava-hh compare seeds --runs results/seed_1 results/seed_2 --reference results/greedy"
    seeds = parser.verb("seeds", compare_seeds, example)
    add = seeds.flags(MODEL)
    add("--runs", FOLDER, "result folders, one per seed", nargs="+", required=True)
    add("--reference", FOLDER, "what to compare with: one folder, or one per seed", nargs="+", required=True)
    seeds.flags(OUTPUT)("--out", FILE, "write all of it to this JSON file")
    add_format_flag(seeds)


def add_details(parser: ScriptParser) -> None:
    details = parser.verb("details", compare_details, "llava-hh compare details --profile mini")
    text = f"{RESULT_FILE} of a run, its folder, or a folder of runs"
    details.add_flag(details, "captions", "CAPTIONS", text, COMPARED, type=Path, nargs="+")
    add_out_flag(details, f"{COMPARED}/chair_details")


def parser() -> ScriptParser:
    """The flags of `llava-hh compare`."""
    return parser_of_verbs(__doc__, "compare", add_runs, add_heads, add_seeds, add_details)


main = partial(run_verb, parser=parser)

if __name__ == "__main__":
    main()
