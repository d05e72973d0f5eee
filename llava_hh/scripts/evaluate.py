"""Methods compared on the same images, prompt and model: captions and their CHAIR, POPE's questions, or reference loss.

Greedy decoding is always among them, as the reference. Every method is tried out before any work; one that the model
cannot have is left out, and the result says why. Writes a folder per method and the result: summary.json (captions),
pope.json or reference_loss.json, with its table and pictures. Run it again to go on after a kill.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llava_hh.command_line.numbers import FRACTION, SIZE
from llava_hh.command_line.parser import FILE, FOLDER, METHOD, MODEL, OUTPUT, ScriptParser
from llava_hh.command_line.script import add_format_flag, run_verb, script_parser
from llava_hh.files.progress import say
from llava_hh.scripts import flags
from llava_hh.scripts.flags import DRAWN, SCORED, by, chosen_objects

if TYPE_CHECKING:
    from llava_hh.experiments.captioning import Evaluation
    from llava_hh.experiments.evaluate import Task

RESULTS = {"chair": "summary.json", "pope": "pope.json", "loss": "reference_loss.json"}
OF_TASKS = {
    "chair": {"choose", "recall_loss", "repeats_rise"},
    "pope": {"questions", "suffix"},
    "loss": {"captions", "captions_per_image"},
}
MAX_NEW_TOKENS = {"chair": 128, "pope": 8, "loss": 128}


def parser() -> ScriptParser:
    methods = "adhh:top_k=2,threshold=0.95 random:draws=2,of=adhh vcd_paper:alpha=0.5"
    parser = script_parser(__doc__, "evaluate", f"llava-hh evaluate --profile mini --methods {methods}")
    limits = {"chair": "{report_images}", "pope": "{pope_images}", "loss": "{reference_images}"}
    outs = {"chair": DRAWN, "pope": DRAWN.replace("}/{", "}/pope/{"), "loss": f"{DRAWN}/reference_loss"}
    profile = {"limit": by("task", limits), "max_new_tokens": by("task", {"pope": ""}, "{max_new_tokens}")}
    flags.add_sample_flags(parser, max_new_tokens=None, profile={**profile, "out": by("task", outs)})
    flags.add_object_flags(parser)
    flags.add_truth_flags(parser.one_of(MODEL))
    flags.add_head_flags(parser, required=False)
    add = parser.flags(METHOD)
    add("--methods", "METHOD", "kind:field=value,...; all: each of docs/methods.md once", nargs="+", default=[])
    add("--task", tuple(RESULTS), "what the methods are compared by", default="chair")
    text = "captions_eval_results.json of greedy captions of other images: random:match=rate draws by the rates there"
    add("--choosing-captions", FILE, text, SCORED)
    add("--choosing-images", FOLDER, "the images of --choosing-captions", "{coco_path}/train2014")
    add("--choose", bool, "chair: write choice.json, the best adhh by the rule of the next two")
    add("--recall-loss", FRACTION, "most recall to give up, as a fraction", default=0.03)
    add("--repeats-rise", FRACTION, "largest rise of the share of mentions that repeat one", default=0.02)
    add("--questions", FOLDER, "pope: the official coco_pope_*.json; else they are built", "{pope_questions}")
    add("--suffix", ("llava", "vcd", "none"), "pope: what follows the question", default="llava")
    add("--captions-per-image", SIZE, "loss: the first so many reference captions of each image", default=5)
    text = "loss: captions_eval_results.json of a method, by its kind or folder, to show beside its loss"
    add("--captions", "METHOD=FILE", text, nargs="*", default=[])
    parser.flags(OUTPUT)("--summary", FILE, "the result file; its table and pictures go beside it")
    add_format_flag(parser)
    return parser


def check(command: ScriptParser, args: argparse.Namespace) -> None:
    flags.check_sample_flags(command, args)
    if not args.images:
        command.refuse_given("is of --images; the annotations say what is in a data set's images", {"objects", "truth"})
    elif args.task != "chair":
        command.error(f"--images: --task {args.task} asks about a data set's images; expected --task chair")
    elif args.objects is None and args.truth is None:
        command.error("--images: CHAIR needs what is in them, --objects or --truth; llava-hh caption does without")
    for task, names in OF_TASKS.items():
        if task != args.task:
            command.refuse_given(f"belongs to --task {task}, not {args.task}", names)
    if args.task == "pope":
        command.refuse_given("POPE has questions of its own", {"prompt"})
    if args.summary and args.summary.suffix != ".json":
        command.error(f"--summary {args.summary}: expected a name that ends with .json")


def run(args: argparse.Namespace) -> None:
    """The comparison that the flags name, and its result."""
    from llava_hh.decoding.groups import make_members
    from llava_hh.decoding.making import Material
    from llava_hh.decoding.reading import check_lists, inputs_of, read_methods
    from llava_hh.experiments.choice import see_choosable
    from llava_hh.experiments.evaluate import run_task, with_own_labels
    from llava_hh.files.files import read_json, write_json
    from llava_hh.files.progress import announce
    from llava_hh.models.footprint import stored_tensors
    from llava_hh.runs.finished import is_finished, left_by_runs, mark_finished, request_of
    from llava_hh.runs.run import processes

    specs = read_methods(args.methods, flags.method_defaults(args), args.heads, args.task)
    check_lists(specs, args.heads)
    if args.task != "chair" and (limited := [spec for spec in specs if "limit=" in str(spec)]):
        raise ValueError(f"method {str(limited[0])!r}: limit goes with --task chair, not {args.task}")
    if args.max_new_tokens is None:
        args.max_new_tokens = MAX_NEW_TOKENS[args.task]
    stored_tensors(args.model)
    path = args.summary or args.out / RESULTS[args.task]
    beside = [Path(each.partition("=")[2]) for each in args.captions]
    request = request_of("evaluate", vars(args), [*inputs_of(specs), *beside], ("out", "summary"))
    if is_finished(path, request):
        announce(f"finished before: {path}")
        show(args, path, read_json(path))
        return
    evaluation, task = prepare(args)
    material = Material(evaluation.lvlm, args.heads, args.foreign_heads, args.seed, rate_controls(args, evaluation))
    members = with_own_labels(make_members(specs, material))
    if args.task == "loss":
        task.refuse_unknown(members)
    if args.choose:
        see_choosable(members)
    images = f"{len(evaluation.samples)} images" + (f" of {args.split}" if args.split else "")
    announce(f"{args.task}: {images}, {len(members)} methods, {args.model}, into {args.out}")
    content = run_task(evaluation, members, task, args.out)
    if not processes().is_main:
        return
    write_json(path, content)
    show(args, path, content)
    mark_finished(path, request, left_by_runs(*(args.out / name for name in content["settings"]["methods"])))


def show(args: argparse.Namespace, path: Path, content: dict) -> None:
    """Print the table of a result, and draw its pictures."""
    from llava_hh.data.own import own_images
    from llava_hh.experiments.shown import draw_captions, show_choice, show_result

    show_result(args.task, path, content, args.format)
    if args.task == "chair":
        image_folder = own_images(args.images)[0] if args.images else args.image_folder
        draw_captions(path, content, args.out, image_folder, args.format, args.debug)
    if args.choose:
        show_choice(args.out, content, args.recall_loss, args.repeats_rise, args.format, args.debug)


def prepare(args: argparse.Namespace) -> tuple[Evaluation, Task]:
    """The images, the model and the task of the flags."""
    from llava_hh.experiments.chair import CaptionTask
    from llava_hh.experiments.reference_loss import LossTask, caption_metrics
    from llava_hh.metrics.chair.datasets import images_with_objects

    if args.task == "pope":
        return prepare_pope(args)
    evaluation = flags.evaluation_from_flags(args)
    if chosen := chosen_objects(args):
        kept = images_with_objects(evaluation.objects, args.with_object, args.without_object)
        evaluation = evaluation.of_images(kept, chosen)
    if args.task == "loss":
        return evaluation, LossTask(args.captions_per_image, caption_metrics(args.captions, evaluation.truth))
    return evaluation, CaptionTask()


def prepare_pope(args: argparse.Namespace) -> tuple[Evaluation, Task]:
    """POPE's images are chosen among those with three objects, so --limit is theirs."""
    from llava_hh.data.pope import SUFFIXES
    from llava_hh.experiments.pope import PopeTask, questions_about

    if args.dataset != "coco" or chosen_objects(args):
        raise ValueError("--task pope asks about COCO's images; leave --dataset, --with-object, --without-object out")
    every_image = argparse.Namespace(**{**vars(args), "limit": None, "prompt": None})
    evaluation = flags.evaluation_from_flags(every_image, with_truth=False)
    cache = args.out / "ground_truth.json"
    questions = questions_about(evaluation, args.annotations, args.questions, args.limit, args.seed, cache)
    about = {question["image"] for asked in questions.values() for question in asked}
    shown = [sample for sample in evaluation.samples if sample["file_name"] in about]
    keep_in = None if args.questions else args.out
    task = PopeTask(questions, SUFFIXES[args.suffix], args.suffix, args.limit, keep_in)
    return replace(evaluation, samples=shown), task


def rate_controls(args: argparse.Namespace, evaluation: Evaluation) -> Callable[..., Mapping] | None:
    """What draws heads that fire as often, where --choosing-captions names captions to measure that on."""
    if args.choosing_captions is None:
        return None
    if args.choosing_images is None:
        raise ValueError("--choosing-captions needs --choosing-images, the folder of their images")
    from llava_hh.experiments.firing import firing_rates, matched_heads
    from llava_hh.runs.run import processes

    def draw(heads: Sequence, threshold: float, seeds: Sequence[int]) -> Mapping:
        out = args.out / f"firing_rates-threshold={threshold:g}"
        captions = (args.choosing_captions, args.choosing_images)
        if not args.choosing_captions.exists():
            advice = "sh bash_scripts/attribute.sh makes it, under the same PROFILE"
            raise FileNotFoundError(f"--choosing-captions {args.choosing_captions}: no such file; {advice}")
        rates = firing_rates(evaluation.lvlm, *captions, threshold, out, args.batch_size)
        controls = {seed: matched_heads(rates, heads, seed) for seed in seeds}
        if processes().is_main:
            for who, listed in {"chosen heads": heads, **{f"seed {seed}": controls[seed] for seed in seeds}}.items():
                shares = ", ".join(f"{100 * rates[*head]:.2f}%" for head in listed)
                say(f"fires at {threshold:g} on the choosing captions, {who}: {shares}")
        return controls

    return draw


main = partial(run_verb, parser=parser, run=run, check=check)

if __name__ == "__main__":
    main()
