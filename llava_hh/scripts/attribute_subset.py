"""The head list of a part of the images of a finished attribution, such as those with or without some object.

Nothing is measured again, for the influence on every word was kept: seconds, no model. Writes attribution_result.json
and head_map as attribute does; compare_heads compares the lists of two parts.
"""

import argparse
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from llava_hh.attribution.captions import digest, hallucinating_captions
from llava_hh.attribution.stored import Columns
from llava_hh.attribution.summary import summarise
from llava_hh.command_line import SIZE, errors_in_one_line, script_parser
from llava_hh.comparison import read_scored
from llava_hh.data.coco import existing_file
from llava_hh.datasets import images_with_objects
from llava_hh.figures.head_map import draw_head_map
from llava_hh.figures.style import picture
from llava_hh.files import read_json, read_json_lines, sha256, write_json
from llava_hh.flags import add_object_flags
from llava_hh.runs import make_folder, processes, provenance

MARKS = ("hallucinated", "image_id")


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("--attribution", type=Path, required=True, help="result folder of attribute")
    add("--captions", type=Path, required=True, help="the captions_eval_results.json that it was of")
    add_object_flags(parser)
    add("--list-length", type=SIZE, default=30, help="heads in each of the two lists")
    add("--out", type=Path, required=True, help="result folder")
    return parser


def subset(args: argparse.Namespace) -> dict:
    """The content of attribution_result.json for the images that the flags keep.

    Raises:
        FileNotFoundError: not the folder of a finished attribution.
        ValueError: other captions, or no hallucinated or true word in the images that are kept.
    """
    expected = "the folder of a finished attribution"
    log_probs = load_file(existing_file(args.attribution / "ablations.safetensors", expected))
    whole = read_json(existing_file(args.attribution / "attribution_result.json", expected))
    if digest(hallucinating_captions(args.captions)) != whole["settings"]["captions_sha256"]:
        raise ValueError(f"--captions {args.captions}: other captions than {args.attribution} was made of")
    rows = [row for _, row in read_json_lines(args.attribution / "targets.jsonl", expected)]
    objects = {entry["image_id"]: entry["mscoco_gt_words"] for entry in read_scored(args.captions)[0]}
    attributed = {row["image_id"]: objects[row["image_id"]] for row in rows}
    kept = images_with_objects(attributed, args.with_object, args.without_object)
    chosen = np.array([row["image_id"] in kept for row in rows])
    marks = (np.array([row[name] for row, own in zip(rows, chosen, strict=True) if own]) for name in MARKS)
    own_log_probs = {name: Columns(array[chosen]) for name, array in log_probs.items()}
    part = {"with_object": args.with_object, "without_object": args.without_object}
    part["whole"] = sha256(args.attribution / "targets.jsonl")
    return {
        **summarise(*marks, own_log_probs, whole["read_out"], args.list_length),
        "ablation": whole["ablation"],
        "settings": {**whole["settings"], **part},
        "run": provenance(),
    }


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        if not processes().is_main:
            return
        result = subset(args)
        make_folder(args.out)
        path = args.out / "attribution_result.json"
        write_json(path, result)
    words = f"{result['n_hallucinated_words']} hallucinated and {result['n_true_words']} true"
    first = ", ".join(f"L{layer}H{head}" for layer, head in result["hal_heads"][:5])
    print(f"{words} object words in {result['n_captions']} captions; strongest hallucination heads: {first}\n{path}")
    with picture(args.out / "head_map", args.debug) as out:
        draw_head_map(path, out)


if __name__ == "__main__":
    main()
