"""Make the vectors that VTI steers a model by: a minute on mini, some minutes on a GPU.

Text vectors are the way from a hallucinated caption's last state to a truthful one's. Image vectors are the way from
the vision tower's states of an image to those of the same image with nearly all patches hidden. Pairs of captions are
JSON lines (--pairs; VTI's authors published 100). Without these they are made of COCO's reference captions: about half
of a caption's objects are swapped for others that often stand beside them. Take no images that you evaluate on.

Writes one safetensors file, which says what it was made of. Use it as --methods 'vti:vectors="FILE"'.
"""

import argparse
from functools import partial

from llava_hh.command_line.numbers import FACTOR, FRACTION, RANDOM_SEED, SIZE
from llava_hh.command_line.parser import CHECKPOINT, FILE, FOLDER, METHOD, MODEL, OUTPUT, SPEED, ScriptParser
from llava_hh.command_line.script import chosen, run_verb, script_parser
from llava_hh.files.progress import say
from llava_hh.models.questions import DESCRIBE

OF_ANNOTATIONS = {"annotations", "split", "prompt"}


def parser() -> ScriptParser:
    """The flags of `llava-hh prepare-vti`."""
    example = "llava-hh prepare-vti --profile mini --out results/try/vectors.safetensors"
    parser = script_parser(__doc__, "prepare-vti", example)
    add = parser.flags(MODEL)
    add("--model", CHECKPOINT, "checkpoint folder, or org/name of the hub", "{model_path}", required=True)
    add("--image-folder", FOLDER, "folder of the images", "{coco_path}/{split}", required=True)
    add("--pairs", FILE, "JSON lines with image (a name in --image-folder), question, value (truthful) and h_value")
    text = "without --pairs: folder of COCO's captions_*.json and instances_*.json"
    add("--annotations", FOLDER, text, "{coco_path}/annotations", required=True)
    add("--split", "NAME", "without --pairs: whose annotations", default="train2014")
    add("--prompt", "TEXT", "without --pairs: the question", "{question}", default=DESCRIBE)
    add = parser.flags(METHOD)
    add("--n-pairs", SIZE, "how many pairs, and images, are drawn", default=70)
    add("--seed", RANDOM_SEED, "of the draw, and of hidden patches", default=42)
    add("--masked", FRACTION, "share of an image's patches that is hidden", default=0.99)
    add("--copies", SIZE, "copies of each image with other patches hidden", default=50)
    add("--alpha-image", FACTOR, "how strongly the vision tower is steered while captions are read", default=0.9)
    parser.flags(SPEED)("--batch-size", SIZE, "images, or captions, at once", "{batch_size}", default=8)
    parser.flags(OUTPUT)("--out", FILE, "the new file", "{result_path}/vti/vectors.safetensors", required=True)
    parser.instead["pairs"] = OF_ANNOTATIONS
    return parser


def check(command: ScriptParser, args: argparse.Namespace) -> None:
    if args.out.suffix != ".safetensors":
        command.error(f"--out {args.out}: expected a name that ends in .safetensors")
    if args.pairs:
        command.refuse_given("is for pairs that are made of annotations; --pairs has them", OF_ANNOTATIONS)


def run(args: argparse.Namespace) -> None:
    from llava_hh.steering.prepare import Preparation, prepare

    prepare(chosen(Preparation, args))
    say(args.out)


main = partial(run_verb, parser=parser, run=run, check=check)

if __name__ == "__main__":
    main()
