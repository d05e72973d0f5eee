"""Find hallucination heads: the exact influence of every head on hallucinated and true object words (paper).

For each object word of the captions with a hallucination, every head is ablated at the position that predicts the
word's first token, one head at a time, and the drop of the token's probability is the head's influence. Heads are
ranked by their mean influence on hallucinated words minus that on true ones. Each layer's whole attention and MLP are
ablated too. Writes attribution_result.json (both head lists, scores, bootstrap intervals over images, overlap of the
lists between halves of the images), targets.jsonl, ablations.safetensors (log-probabilities of every word), and a
picture.
"""

import argparse
from dataclasses import fields
from pathlib import Path

import numpy as np

from llava_hh.attribution.captions import hallucinating_captions, refuse_other_model
from llava_hh.attribution.contrast import READ_OUTS
from llava_hh.attribution.replacement import Mean, Noise, Replacement, Zero
from llava_hh.attribution.run import AttributionSettings, CaptionAttribution, OutputsSettings
from llava_hh.attribution.shortlist import race, screen
from llava_hh.attribution.stored import join_blocks, stored_columns
from llava_hh.attribution.summary import summarise
from llava_hh.command_line import FACTOR, RANDOM_SEED, SIZE, errors_in_one_line, script_parser
from llava_hh.figures.head_map import draw_head_map
from llava_hh.figures.style import picture
from llava_hh.files import read_json_lines, write_json, write_rows, write_tensors
from llava_hh.flags import add_caption_flags
from llava_hh.runs import processes, provenance, start_run

TARGETS, ABLATIONS = "targets.jsonl", "ablations.safetensors"


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    add_caption_flags(parser)
    add = parser.add_argument
    add("--limit", type=SIZE, help="use the first so many captions with a hallucination; all by default")
    add(
        "--ablation",
        choices=("zero", "mean", "noise"),
        default="zero",
        help="what a head's output becomes: 0, its mean "
        "over these captions' object words, or itself plus noise of its standard deviation there",
    )
    add("--noise-scale", type=FACTOR, default=1.0, help="noise: in standard deviations")
    add("--noise-seed", type=RANDOM_SEED, default=0, help="noise: of its draws")
    add(
        "--read-out",
        choices=READ_OUTS,
        default="probability",
        help="drop of the probability, its absolute value, or drop "
        "of the log-probability; another one is computed from the finished run in seconds",
    )
    add(
        "--released",
        action="store_true",
        help="targets as in the paper's code: any token whose text equals the first sub-token of a named object",
    )
    shortlist = parser.add_mutually_exclusive_group()
    shortlist.add_argument(
        "--screen",
        type=SIZE,
        metavar="N",
        help="measure only the N heads that a first-order estimate puts first; a heuristic, several times faster",
    )
    shortlist.add_argument(
        "--race",
        type=SIZE,
        metavar="K",
        help="look for the top K only; stop measuring a head once K others are ahead of it, each at 97.5%% confidence",
    )
    add("--list-length", type=SIZE, default=30, help="heads in each of the two lists")
    add("--max-rows", type=SIZE, default=4096, help="most ablated rows at once; bounds the memory")
    add("--batch-size", type=SIZE, default=8, help="captions per block that a rerun skips")
    return parser


def chosen_replacement(
    args: argparse.Namespace, attribution: CaptionAttribution, entries: list, settings: AttributionSettings
) -> Replacement:
    """What takes an ablated output's place; means and deviations are gathered first, in a run of their own."""
    if args.ablation == "zero":
        return Zero()
    folder = args.out / "module_outputs"
    shared = {each.name: getattr(settings, each.name) for each in fields(OutputsSettings)}
    with start_run(folder, OutputsSettings(**shared), [entry["image_id"] for entry in entries]) as run:
        outputs = attribution.gather_outputs(entries, run)
    return Mean(outputs) if args.ablation == "mean" else Noise(outputs, args.noise_scale, args.noise_seed)


def report(result: dict, path: Path) -> None:
    words = f"{result['n_hallucinated_words']} hallucinated and {result['n_true_words']} true"
    print(f"{words} object words in {result['n_captions']} captions; strongest hallucination heads (95% intervals):")
    for layer, head in result["hal_heads"][:5]:
        score = result["contrastive_influence"][layer][head]
        low, high = (ends[layer][head] for ends in result["interval"]["contrastive_influence"])
        print(f"  L{layer}H{head}  {score:+.4f} ({low:+.4f} to {high:+.4f})")
    if "shortlist" in result:
        kind, done, whole = (result["shortlist"][key] for key in ("kind", "exact_evaluations", "of"))
        print(f"  {kind}: {done:,} exact evaluations instead of {whole:,}, {whole / done:.1f}x fewer")
    for k, overlap in result.get("stability", {"half_overlap": {}})["half_overlap"].items():
        chance = f"{overlap['chance']:.1%} by chance"
        print(f"  top {k}: {overlap['mean']:.0%} in common between halves of the images, {chance}")
    print(path)


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        refuse_other_model(args.captions, args.model)
        found = hallucinating_captions(args.captions)
        entries = found[: args.limit]
        attribution = CaptionAttribution(args.model, args.image_folder, args.released, args.max_rows)
        of_noise = {name: getattr(args, name) for name in ("noise_scale", "noise_seed") if args.ablation == "noise"}
        settings = AttributionSettings(
            **attribution.fields(found, args.batch_size, args.limit),
            released=args.released,
            ablation=args.ablation,
            screen=args.screen,
            race=args.race,
            read_out=args.read_out if args.screen or args.race else None,
            **of_noise,
        )
        with start_run(args.out, settings, [entry["image_id"] for entry in entries]) as run:
            replacement = chosen_replacement(args, attribution, entries, settings)
            how = (attribution, entries, replacement, run, settings, args.batch_size, args.read_out)
            if args.screen:
                found = screen(*how, args.screen)
            elif args.race:
                found = race(*how, args.race)
            else:
                attribution.run_blocks(entries, replacement, run, args.batch_size)
                found = None
            if not processes().is_main:
                return
            if found:
                write_rows(args.out / TARGETS, found.rows)
                write_tensors(args.out / ABLATIONS, found.log_probs)
            else:
                run.write_rows(TARGETS)
                join_blocks(run, args.out / ABLATIONS)
            rows = ((row["hallucinated"], row["image_id"]) for _, row in read_json_lines(args.out / TARGETS))
            marks = map(np.array, zip(*rows, strict=True))
            length = min(args.list_length, args.race or args.screen or args.list_length)
            log_probs = stored_columns(args.out / ABLATIONS)
            result = summarise(*marks, log_probs, args.read_out, length)
            result |= {"shortlist": found.about} if found else {}
            about = {"ablation": args.ablation, "settings": settings.record(), "run": provenance()}
            write_json(args.out / "attribution_result.json", {**result, **about})
        path = args.out / "attribution_result.json"
        report(result, path)
        with picture(args.out / "head_map", args.debug) as out:
            draw_head_map(path, out)


if __name__ == "__main__":
    main()
