"""Caption a sample of images, greedily or with attention heads edited; writes captions.jsonl and run.json."""

import argparse
from pathlib import Path

from llava_hh.command_line import errors_in_one_line, script_parser
from llava_hh.evaluation import add_sample_flags, chosen_samples, describe_interventions
from llava_hh.generation import caption_images
from llava_hh.heads import load_heads
from llava_hh.interventions import DeactivateText, Intervention, ScaleAttention, ZeroHeads
from llava_hh.models.lvlm import load_lvlm
from llava_hh.runs import describe_model, start_run


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    add_sample_flags(parser, "val2014")
    add = parser.add_argument
    add("--edit", choices=("none", "adhh", "zero", "scale"), default="none", help="what to do to the heads")
    add("--heads", type=Path, help="head list (attribution_result.json), for every --edit but none")
    add("--top-k", type=int, default=20, help="how many heads of the list")
    add(
        "--threshold",
        type=float,
        default=0.4,
        help="adhh: attention mass after the image at which a head is switched off",
    )
    add("--alpha", type=float, default=0.0, help="scale: factor on the attention")
    add("--span", choices=("after_image", "image"), default="after_image", help="scale: attention on which keys")
    add("--skip-bad", action="store_true", help="report and leave out images that cannot be read")
    return parser


def chosen_interventions(args: argparse.Namespace) -> list[Intervention]:
    if args.edit == "none":
        return []
    if args.heads is None:
        raise ValueError(f"--edit {args.edit} needs --heads")
    heads = tuple(load_heads(args.heads, top_k=args.top_k))
    if args.edit == "adhh":
        return [DeactivateText(heads, args.threshold)]
    return [ZeroHeads(heads)] if args.edit == "zero" else [ScaleAttention(heads, args.alpha, args.span)]


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        interventions = chosen_interventions(args)
        samples = chosen_samples(args)
        settings = {
            "model": describe_model(args.model),
            "image_folder": str(args.image_folder),
            "seed": args.seed,
            "limit": args.limit,
            "prompt": args.prompt,
            "max_new_tokens": args.max_new_tokens,
            "batch_size": args.batch_size,
            "interventions": describe_interventions(interventions),
            "skip_bad": args.skip_bad,
        }
        with start_run(args.out, settings, [sample["image_id"] for sample in samples]) as run:
            rows = caption_images(
                load_lvlm(args.model),
                samples,
                args.image_folder,
                run,
                prompt=args.prompt,
                model_id=args.model.name,
                max_new_tokens=args.max_new_tokens,
                batch_size=args.batch_size,
                interventions=interventions,
                skip_bad=args.skip_bad,
            )
        n_bad = len(samples) - len(rows)
        skipped = f", {n_bad} bad image{'s' * (n_bad > 1)} skipped" if n_bad else ""
        print(f"{len(rows)} captions{skipped}: {args.out / 'captions.jsonl'}")


if __name__ == "__main__":
    main()
