"""Greedy decoding, AD-HH and random heads on the same images: one table, summary.json and a picture of captions."""

import argparse
from pathlib import Path

from llava_hh.command_line import errors_in_one_line, script_parser
from llava_hh.data.coco import load_image_list, sample_images
from llava_hh.evaluation import RESULT_FILE, Evaluation, compare, summary_table
from llava_hh.figures.caption_examples import draw_caption_examples
from llava_hh.heads import Head, load_heads, random_heads
from llava_hh.interventions import DeactivateText
from llava_hh.metrics.chair import ground_truth_objects
from llava_hh.models.lvlm import DESCRIBE, load_lvlm
from llava_hh.runs import read_json, sha256, write_json


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="checkpoint folder")
    add("--image-folder", type=Path, required=True, help="folder of the images")
    add("--annotations", type=Path, required=True, help="folder of COCO's captions_*.json and instances_*.json")
    add("--split", default="val2014", help="whose captions file is sampled from")
    add("--heads", type=Path, required=True, help="head list (attribution_result.json)")
    add("--top-k", type=int, default=20, help="how many heads of the list are switched off")
    add("--threshold", type=float, default=0.4, help="attention mass after the image at which a head is switched off")
    add("--choice", type=Path, help="take top k and threshold from the choice.json of choose_adhh")
    add("--random-draws", type=int, default=2, help="draws of as many random heads, none of them of the top k")
    add("--limit", type=int, help="how many images; all by default")
    add("--seed", type=int, default=42, help="of the sample of images; the draws of random heads count up from it")
    add("--prompt", default=DESCRIBE, help="the question")
    add("--max-new-tokens", type=int, default=128, help="longest caption")
    add("--batch-size", type=int, default=20, help="images per batch, and per block that a rerun skips")
    add("--out", type=Path, required=True, help="folder for one result folder per method")
    add("--summary", type=Path, help="the summary (default: summary.json in --out); the picture goes beside it")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        if args.choice:
            chosen = read_json(args.choice)["chosen"]
            if chosen is None:
                raise ValueError(f"--choice {args.choice}: no setting did better than greedy decoding")
            args.top_k, args.threshold = chosen["top_k"], chosen["threshold"]
        heads = load_heads(args.heads, top_k=args.top_k)
        samples = sample_images(
            load_image_list(args.annotations / f"captions_{args.split}.json"), args.limit, args.seed
        )
        lvlm = load_lvlm(args.model)
        evaluation = Evaluation(
            lvlm=lvlm,
            model_path=args.model,
            samples=samples,
            image_folder=args.image_folder,
            objects=ground_truth_objects(args.annotations, [sample["image_id"] for sample in samples]),
            prompt=args.prompt,
            max_new_tokens=args.max_new_tokens,
            batch_size=args.batch_size,
            extra={"seed": args.seed, "limit": args.limit},
        )

        def switched_off(chosen: list[Head]) -> list[DeactivateText]:
            return [DeactivateText(tuple(chosen), args.threshold)]

        sentences = {
            "greedy": evaluation.run("greedy", [], args.out / "greedy"),
            "adhh": evaluation.run("AD-HH", switched_off(heads), args.out / "adhh"),
        }
        draws = []
        for seed in range(args.seed, args.seed + args.random_draws):
            control = random_heads(lvlm.n_layers, lvlm.n_heads, args.top_k, seed, exclude=heads)
            draws.append(evaluation.run(f"random {seed}", switched_off(control), args.out / f"random_{seed}"))

        settings = {
            **evaluation.settings(switched_off(heads)),
            "heads_sha256": sha256(args.heads),
            "top_k": args.top_k,
            "threshold": args.threshold,
        }
        summary = compare(sentences, draws, settings)
        path = args.summary or args.out / "summary.json"
        write_json(path, summary)
        picture = path.with_name(f"{path.stem}_captions")
        draw_caption_examples(
            args.out / "greedy" / RESULT_FILE, args.out / "adhh" / RESULT_FILE, args.image_folder, picture
        )
        print(f"{summary_table(summary)}\n{path}\n{picture}.png")


if __name__ == "__main__":
    main()
