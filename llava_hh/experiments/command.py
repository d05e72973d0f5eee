"""What the verb `evaluate` does with its flags: the comparison, its result file, table and pictures."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from llava_hh.comparison import note_of_left_out, spread_table, table_of, table_of_pope
from llava_hh.data.pope import SUFFIXES
from llava_hh.datasets import images_with_objects
from llava_hh.decoding.groups import make_members
from llava_hh.decoding.making import Material, read_methods
from llava_hh.decoding.method import Greedy
from llava_hh.decoding.registry import load_plugin
from llava_hh.evaluation import RESULT_FILE, Evaluation
from llava_hh.experiments.captions import CaptionTask
from llava_hh.experiments.choice import choice_of
from llava_hh.experiments.evaluate import Task, run_methods, with_own_labels
from llava_hh.experiments.losses import LossTask, caption_metrics
from llava_hh.experiments.pope import PopeTask, questions_about
from llava_hh.figures.caption_examples import draw_caption_examples
from llava_hh.figures.methods import draw_methods
from llava_hh.figures.style import picture
from llava_hh.figures.trade_off import draw_trade_off
from llava_hh.files import sha256, write_json, write_rows, write_text
from llava_hh.flags import chosen_objects, evaluation_from_flags
from llava_hh.footprint import stored_tensors
from llava_hh.runs import processes
from llava_hh.scripts.evaluate import RESULTS
from llava_hh.tables import Table, print_table


def run(args: argparse.Namespace) -> None:
    """The whole of it."""
    for path in args.plugin:
        load_plugin(path)
    specs = read_methods(args.methods)
    if args.choose and args.task != "chair":
        raise ValueError(f"--choose goes with --task chair, not {args.task}")
    stored_tensors(args.model)
    evaluation, task = prepare(args)
    material = Material(evaluation.lvlm, args.heads, args.foreign_heads, args.seed, rate_controls(args, evaluation))
    members = with_own_labels(make_members(specs, material))
    if processes().is_main:
        images = f"{len(evaluation.samples)} images of {args.split}"
        print(f"{args.task}: {images}, {len(members)} methods, {args.model.name}, into {args.out}", flush=True)
    record = evaluation.record(Greedy())
    results, methods, left_out = run_methods(evaluation, members, task, args.out)
    if not processes().is_main:
        return
    settings = {**record, "split": args.split, "methods": methods}
    if args.heads is not None and args.heads.is_file():
        settings["heads_sha256"] = sha256(args.heads)
    content = task.report(evaluation, members, results, left_out, settings, args.out)
    path = args.summary or args.out / RESULTS[args.task]
    write_json(path, content)
    show(args, path, content)


def prepare(args: argparse.Namespace) -> tuple[Evaluation, Task]:
    """The images, the model and the task of the flags."""
    if args.task == "pope":
        return prepare_pope(args)
    evaluation = evaluation_from_flags(args)
    kept = images_with_objects(evaluation.objects, args.with_object, args.without_object)
    evaluation = evaluation.of_images(kept, chosen_objects(args)) if chosen_objects(args) else evaluation
    if args.task == "loss":
        return evaluation, LossTask(args.captions_per_image, caption_metrics(args.captions, evaluation.truth))
    return evaluation, CaptionTask()


def prepare_pope(args: argparse.Namespace) -> tuple[Evaluation, Task]:
    """POPE's images are chosen among those with three objects, so --limit is theirs."""
    if args.dataset != "coco" or chosen_objects(args):
        raise ValueError("--task pope asks about COCO's images; leave --dataset, --with-object and --without-object out")
    given = argparse.Namespace(**{**vars(args), "limit": None})
    evaluation = evaluation_from_flags(given, with_truth=False)
    cache = args.out / "ground_truth.json"
    questions = questions_about(evaluation, args.annotations, args.questions, args.limit, args.seed, cache)
    if processes().is_main and not args.questions:
        for kind, asked in questions.items():
            write_rows(args.out / f"questions_{kind}.jsonl", asked)
    return evaluation, PopeTask(questions, SUFFIXES[args.suffix], args.suffix)


def rate_controls(args: argparse.Namespace, evaluation: Evaluation):
    """What draws heads that fire as often, where --choosing-captions names captions to measure that on."""
    if args.choosing_captions is None:
        return None
    from llava_hh.experiments.firing import matched_controls

    def draw(heads: Sequence, threshold: float, seeds: Sequence[int]) -> Mapping[int, Sequence]:
        drawn, rates = matched_controls(
            evaluation.lvlm,
            args.choosing_captions,
            heads=heads,
            threshold=threshold,
            seeds=seeds,
            out=args.out / f"firing_rates-threshold={threshold:g}",
            batch_size=args.batch_size,
        )
        if processes().is_main:
            for who, own in rates.items():
                print(f"share of answer positions at which heads fire at {threshold:g}: {who}: {own}", flush=True)
        return drawn

    return draw


def show(args: argparse.Namespace, path: Path, content: dict) -> None:
    """Print the table and write it beside the result; draw the pictures."""
    if args.task == "chair":
        table = table_of(content)
    elif args.task == "pope":
        table = table_of_pope(content)
    else:
        table = table_of_losses(content)
    write_text(path.with_suffix(".md"), table.markdown() + "\n")
    print_table(table, args.format)
    if args.task != "chair":
        print(path)
        return
    spreads = {name: entry["over_runs"] for name, entry in content["methods"].items() if "over_runs" in entry}
    if spreads:
        print(f"\n{spread_table(spreads).markdown()}\n")
    for name, entry in content["methods"].items():
        if rates := entry.get("fired"):
            print_fired(entry.get("label", name), rates)
    print(path)
    with picture(path.with_suffix(""), args.debug) as out:
        draw_methods(path, out)
    changed = next((e for e in content["methods"].values() if e.get("kind") not in ("greedy", None)), None)
    if changed:
        with picture(path.with_name(f"{path.stem}_captions"), args.debug) as out:
            greedy, other = (args.out / folder / RESULT_FILE for folder in ("greedy", changed["folder"]))
            draw_caption_examples(greedy, other, args.image_folder, out)
    if args.choose:
        show_choice(args, content)


def print_fired(label: str, rates: dict) -> None:
    """One line of how often each head fired; of a group, one line of the mean of each of its draws."""
    first = next(iter(rates.values()))
    if "rate" in first:
        print(f"fired, {label}: " + ", ".join(f"{head} {100 * own['rate']:.1f}%" for head, own in rates.items()))
        return
    means = [sum(own["rate"] for own in draw.values()) / len(draw) for draw in rates.values()]
    print(f"fired, {label}: mean over heads of each draw " + ", ".join(f"{100 * mean:.1f}%" for mean in means))


def show_choice(args: argparse.Namespace, summary: dict) -> None:
    """Write choice.json, print the chosen setting and draw the trade-off."""
    content = choice_of(summary, args.recall_loss, args.mentions_change)
    path, chosen = args.out / "choice.json", content["chosen"]
    write_json(path, content)
    print(f"chosen: top {chosen['top_k']} at {chosen['threshold']:g}" if chosen else "chosen: none does better")
    print(path)
    with picture(args.out / "choice", args.debug) as out:
        draw_trade_off(path, out)


def table_of_losses(content: dict) -> Table:
    """The methods' losses, and what their own captions are like."""
    methods = content["methods"]
    captioned = any("captions" in entry for entry in methods.values())
    heads = ["method", "loss, nats per token", "perplexity", "loss minus greedy"]
    heads += ["words", "objects", "recall %", "CHAIR_i %"] * captioned
    rows = []
    for entry in methods.values():
        low, high = entry["interval"]
        cells = [entry["label"], f"{entry['loss']:.3f} ({low:.3f} to {high:.3f})", f"{entry['perplexity']:.2f}", ""]
        if "difference" in entry:
            low, high = entry["difference_interval"]
            cells[-1] = f"{entry['difference']:+.4f} ({low:+.4f} to {high:+.4f})"
        if own := entry.get("captions"):
            cells += [f"{own['length']:.1f}", f"{own['mentions']:.1f}"]
            cells += [f"{100 * own['recall']:.1f}", f"{100 * own['chair_i']:.1f}"]
        rows.append(cells + [""] * (len(heads) - len(cells)))
    n_images = methods["greedy"]["n_images"]
    note = f"In brackets: 95% bootstrap intervals over {n_images} images." + note_of_left_out(content["settings"])
    return Table(heads, rows, note)
