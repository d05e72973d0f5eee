"""Caption a sample of images, or images of your own, by one method: greedily, with heads edited, by another decoder.

Writes captions.jsonl and run.json.
"""

import argparse
from functools import partial

from llava_hh.command_line.parser import METHOD, ScriptParser
from llava_hh.command_line.script import run_verb, script_parser
from llava_hh.scripts.flags import (
    DRAWN,
    add_head_flags,
    add_sample_flags,
    by,
    check_sample_flags,
    evaluation_from_flags,
    method_defaults,
)


def parser() -> ScriptParser:
    method = "adhh:top_k=2,threshold=0.95 --limit 5 --out results/mine/adhh"
    parser = script_parser(__doc__, "caption", f"llava-hh caption --profile mini --method {method}")
    profile = {
        "limit": by("split", {"train2014": "{attribution_images}"}, "{report_images}"),
        "out": by("split", {"train2014": DRAWN}, f"{DRAWN}/captions"),  # evaluate has a folder per method in DRAWN
    }
    add_sample_flags(parser, profile=profile)
    add_head_flags(parser, required=False)
    add = parser.flags(METHOD)
    add("--method", "METHOD", "kind:field=value,...; see the example", default="greedy")
    add("--skip-bad", bool, "report and leave out images that cannot be read")
    return parser


def check(command: ScriptParser, args: argparse.Namespace) -> None:
    check_sample_flags(command, args, "captions")


def run(args: argparse.Namespace) -> None:
    from llava_hh.decoding.making import Material, make
    from llava_hh.decoding.reading import check_lists, inputs_of, read_methods
    from llava_hh.decoding.registry import GROUPS
    from llava_hh.files.progress import announce, say
    from llava_hh.models.lvlm import load_lvlm, release
    from llava_hh.runs.finished import is_finished, left_by_runs, mark_finished, request_of
    from llava_hh.runs.run import processes

    (spec,) = read_methods([args.method], method_defaults(args), args.heads)
    if spec.kind in GROUPS:
        raise ValueError(f"--method {args.method}: several methods; expected one, or the verb evaluate")
    check_lists([spec], args.heads)
    rows, request = args.out / "captions.jsonl", request_of("caption", vars(args), inputs_of([spec]))
    if is_finished(rows, request):
        announce(f"finished before: {rows}")
        return
    evaluation = evaluation_from_flags(args, with_truth=False)
    member = make(spec, Material(evaluation.lvlm, args.heads, args.foreign_heads, args.seed))
    if member.method.checkpoint is not None:
        release(evaluation.lvlm)
        evaluation = evaluation.with_model(load_lvlm(member.method.checkpoint))
    evaluation = evaluation.first(member.limit)
    n_images = len(evaluation.samples)
    images = f"{n_images} images" + (f" of {args.split}" if args.split else "")
    announce(f"captions of {images} by {spec}, {args.model}, into {args.out}")
    n_captions = len(evaluation.caption(member.method, args.out, args.skip_bad).rows)
    if processes().is_main:
        n_bad = n_images - n_captions
        skipped = f", {n_bad} bad image{'s' * (n_bad > 1)} skipped" if n_bad else ""
        say(f"{n_captions} captions{skipped}: {rows}")
        mark_finished(rows, request, left_by_runs(args.out))


main = partial(run_verb, parser=parser, run=run, check=check)

if __name__ == "__main__":
    main()
