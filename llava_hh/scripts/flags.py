"""Flags that several scripts share, and what is made of them: nothing below the scripts sees a command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llava_hh.command_line.numbers import RANDOM_SEED, SIZE
from llava_hh.command_line.parser import CHECKPOINT, FILE, FOLDER, METHOD, MODEL, OUTPUT, SPEED, ScriptParser, Template
from llava_hh.command_line.profiles import read_profile, wrong_numbers
from llava_hh.data.own import folder_name, own_images
from llava_hh.files.progress import announce
from llava_hh.metrics.chair.datasets import DATASETS
from llava_hh.models.questions import DESCRIBE
from llava_hh.runs.run import make_parent

if TYPE_CHECKING:  # a help is shown without loading torch
    from llava_hh.experiments.captioning import Evaluation

ATTRIBUTED = "{result_path}/train2014-{attribution_images|all}-seed{draw_seed|42}"  # what attribute.sh makes
SCORED = f"{ATTRIBUTED}/captions_eval_results.json"
COMPARED = "{result_path}/val2014-{report_images|all}-seed{draw_seed|42}"  # what decoding.sh makes
ANNOTATIONS = {"coco": "{coco_path}/annotations", "nocaps": "{nocaps_path}/annotations"}  # by --dataset
DRAWN = "{result_path}/{split}-{limit|all}-seed{seed}"
OF_A_DATA_SET = {"image_folder", "dataset", "annotations", "split", "limit"}


def by(flag: str, templates: Mapping[str, str], other: str = "") -> Template:
    """A template that depends on the value of a flag; `other` is for values that have none."""
    return lambda known: templates.get(known[flag], other)


def add_sample_flags(
    parser: ScriptParser, max_new_tokens: int | None = 128, profile: Mapping[str, Template] | None = None
) -> None:
    """The flags that say which model captions which images.

    Args:
        max_new_tokens: the default of --max-new-tokens.
        profile: further templates, or others than the usual ones, by flag.
    """
    add = parser.flags(MODEL)
    add("--model", CHECKPOINT, "checkpoint folder, or org/name of the hub", "{model_path}", required=True)
    images = by("dataset", {"coco": "{coco_path}/{split}", "nocaps": "{nocaps_path}/images/val"})
    add("--image-folder", FOLDER, "folder of the images", images, required=True)
    text = "images of your own instead: files, and folders of them; results go to results/images by default"
    add("--images", FILE, text, nargs="+", default=[])
    add("--dataset", DATASETS, "what the images are of", default="coco")
    text = "folder of COCO's captions_*.json and instances_*.json, or nocaps'"
    add("--annotations", FOLDER, text, by("dataset", ANNOTATIONS), required=True)
    text = "whose captions file the images are sampled from; nocaps: a domain, out-domain"
    add("--split", "NAME", text, default="val2014")
    add("--limit", SIZE, "how many images; all where it is not given", "{report_images}")
    add("--seed", RANDOM_SEED, "of the sample of images", "{draw_seed}", default=42)
    add("--prompt", "TEXT", "the question", "{question}", default=DESCRIBE)
    add = parser.flags(SPEED)
    add("--max-new-tokens", SIZE, "longest answer", "{max_new_tokens}", default=max_new_tokens)
    add("--batch-size", SIZE, "images per batch, and per block that a rerun skips", "{batch_size}", default=20)
    add_out_flag(parser, DRAWN)
    parser.take_from_profile(**(profile or {}))
    parser.instead["images"] = OF_A_DATA_SET | {"out"}


def check_sample_flags(command: ScriptParser, args: argparse.Namespace, below: str = "") -> None:
    """End with an error where flags of a data set's images stand beside --images, whose results have a folder anyway.

    Args:
        below: that folder, below results/images/<name of the first image>.
    """
    if not args.images:
        return
    command.refuse_given("is of a data set's images; --images are all taken, as they are", OF_A_DATA_SET)
    args.dataset = args.split = None
    args.out = args.out or Path("results", "images", folder_name(args.images[0]), below)
    try:
        folder, samples = own_images(args.images)  # before a model is fetched
        say_turned([folder / sample["file_name"] for sample in samples])
    except (OSError, ValueError) as error:
        command.error(str(error))


def say_turned(photos: Sequence[Path]) -> None:
    """Say which photos the model will not see as a viewer shows them."""
    from llava_hh.files.images import turned_by_exif

    if turned := [photo for photo in photos if turned_by_exif(photo)]:
        others = f" and {len(turned) - 1} others" * (len(turned) > 1)
        announce(f"{turned[0]}{others}: EXIF says how to turn the photo, which is not done; save it turned")


def add_out_flag(parser: ScriptParser, profile: Template | None = None) -> None:
    """The flag that says where results go, and what a profile fills it with."""
    parser.flags(OUTPUT)("--out", FOLDER, "result folder", profile, required=True)


def add_caption_flags(parser: ScriptParser, required: bool = True) -> None:
    """The flags that say which model's captions of which images are looked at.

    Args:
        required: whether the model and the images have to be given.
    """
    add = parser.flags(MODEL)
    add("--model", CHECKPOINT, "checkpoint folder, or org/name of the hub", "{model_path}", required=required)
    add("--captions", FILE, "captions_eval_results.json of this model's greedy captions", SCORED, required=True)
    add("--image-folder", FOLDER, "folder of the images", "{coco_path}/train2014", required=required)
    add_out_flag(parser)


def add_head_flags(parser: ScriptParser, required: bool = True) -> None:
    """The flags that name a head list."""
    add = parser.flags(METHOD)
    text = "head list (attribution_result.json), or: published, or heads that are written out: L24H4,L23H3"
    add("--heads", FILE, text, "{head_list}", required=required)
    add("--foreign-heads", bool, "allow a list that was found on another model")


def method_defaults(args: argparse.Namespace) -> dict[str, dict[str, object]]:
    """Fields that the profile of --profile knows for methods that do not name them, by kind."""
    if not args.profile:
        return {}
    profile = read_profile(args.profile)
    named = ("top_k", "threshold", "removal_top_k", "reweight_top_k")
    if wrong := [text for text in wrong_numbers(profile) if text.split()[0] in named]:
        raise ValueError(f"--profile {args.profile}: {wrong[0]}")
    return {
        "adhh": {"top_k": int(profile["top_k"]), "threshold": float(profile["threshold"])},
        "removal": {"top_k": int(profile["removal_top_k"])},
        "scale": {"top_k": int(profile["reweight_top_k"])},
    }


def add_object_flags(parser: ScriptParser) -> None:
    """The flags that keep only the images with, or without, some objects: two parts of a data set."""
    add = parser.one_of(MODEL)
    add("--with-object", "NAME", "only images that have one of these objects", nargs="+")
    add("--without-object", "NAME", "only images that have none of these", nargs="+")


def add_truth_flags(add: Callable[..., object]) -> None:
    """The flags that say what is in images of one's own, by `add_flag` of a group whose flags exclude each other."""
    add("--objects", FILE, "what is in each image: JSON lines with image_id and objects (names)")
    add("--truth", "NAMES", "or what is in the only image, such as 'car, handbag'")


def chosen_objects(args: argparse.Namespace) -> dict:
    """The flags of `add_object_flags` that were given, for run.json."""
    return {name: getattr(args, name) for name in ("with_object", "without_object") if getattr(args, name)}


def evaluation_from_flags(args: argparse.Namespace, with_truth: bool = True) -> Evaluation:
    """Load what the flags of `add_sample_flags` name; ground truth only where captions are scored."""
    from llava_hh.experiments.captioning import open_evaluation, open_own_images

    if getattr(args, "summary", None):
        make_parent(args.summary)
    if args.images:
        names = ("model", "images", "out", "prompt", "max_new_tokens", "batch_size")
        truth = {name: getattr(args, name) for name in ("objects", "truth")} if with_truth else {}
        return open_own_images(**{name: getattr(args, name) for name in names}, **truth)
    names = ("model", "image_folder", "annotations", "split", "out", "dataset", "limit", "seed", "prompt")
    flags = {name: getattr(args, name) for name in (*names, "max_new_tokens", "batch_size")}
    return open_evaluation(**flags, with_truth=with_truth)
