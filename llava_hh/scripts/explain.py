"""Explain one image: what the model says of it greedily and under AD-HH, and which heads brought each object word.

Prints both captions, the heads behind each object word, and how often AD-HH fired. Writes explanation.html, a page with
all of that, where heads look and at which tokens they were switched off, and its numbers in explanation.json. Without
--model and --profile the model is mini.
"""

import argparse
import itertools
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llava_hh.command_line.numbers import FRACTION, SIZE
from llava_hh.command_line.parser import CHECKPOINT, FOLDER, METHOD, MODEL, OUTPUT, SPEED, Known, ScriptParser
from llava_hh.command_line.profiles import REPO
from llava_hh.command_line.script import run_verb, script_parser
from llava_hh.files.progress import announce, say
from llava_hh.models.questions import DESCRIBE
from llava_hh.runs.settings import Settings
from llava_hh.scripts.flags import add_head_flags, add_truth_flags

PAGE = "explanation.html"


@dataclass(frozen=True)
class ExplainSettings(Settings):
    """What decides an explanation; model and image by their content, words and truth as they were given."""

    model: dict
    image: dict
    prompt: str
    max_new_tokens: int
    heads: list
    threshold: float
    words: list | None = None
    truth: list | None = None


def parser() -> ScriptParser:
    """The flags of `llava-hh explain`."""
    parser = script_parser(__doc__, "explain", "llava-hh explain photo.jpg --truth 'car, handbag'")
    parser.default_profile = "mini"
    parser.add_argument("photo", type=Path, metavar="IMAGE", help="a photo, or any other image file")
    add = parser.flags(MODEL)
    add("--model", CHECKPOINT, "checkpoint folder, or org/name of the hub", "{model_path}", required=True)
    add("--prompt", "TEXT", "the question", "{question}", default=DESCRIBE)
    add("--words", "NAMES", "words to explain, such as 'spoon, table'; all object words of CHAIR by default")
    add_truth_flags(parser.one_of(MODEL))
    add_head_flags(parser, required=False)
    parser.take_from_profile(heads=head_list)
    add = parser.flags(METHOD)
    text = "how many heads of the list AD-HH switches off; 20 by default, or as a published list says"
    add("--top-k", SIZE, text, "{top_k}")
    text = "attention mass after the image at which a head is switched off; 0.4 by default, or as a published list says"
    add("--threshold", FRACTION, text, "{threshold}")
    add = parser.flags(SPEED)
    add("--max-new-tokens", SIZE, "longest answer", "{max_new_tokens}", default=128)
    add("--max-rows", SIZE, "most ablated rows at once; bounds the memory", default=4096)
    text = "result folder; results/explain/<name of the photo> by default, with -2 behind it where another is there"
    parser.flags(OUTPUT)("--out", FOLDER, text, lambda known: f"{{result_path}}/explain/{known['photo'].stem}")
    return parser


def head_list(known: Known) -> str:
    """The list that attribution found with this profile, or where there is none, the one published for its model."""
    found = known["head_list"]
    return found if (REPO / found).is_file() else "published"


def check(command: ScriptParser, args: argparse.Namespace) -> None:
    args.out = args.out or Path("results") / "explain" / args.photo.stem
    args.may_number = "out" not in command.given
    if "heads" not in command.given and args.heads in (None, Path("published")):
        args.heads = Path("published")
        announce("heads: those published for this model; bash_scripts/attribute.sh finds them on your machine")


def run(args: argparse.Namespace) -> None:
    from llava_hh.api.explain import explain
    from llava_hh.data.own import names_in
    from llava_hh.decoding.head_lists import adhh_of_list
    from llava_hh.decoding.reading import refuse_no_list
    from llava_hh.files.images import load_image
    from llava_hh.models.lvlm import load_lvlm
    from llava_hh.runs.finished import is_finished, mark_finished, request_of
    from llava_hh.runs.identity import describe_loaded, identify
    from llava_hh.runs.run import processes, start_run

    if not args.photo.exists():
        raise FileNotFoundError(f"{args.photo}: no such image; expected the file of a photo")
    load_image(args.photo)  # refused before the model is loaded
    refuse_no_list(args.heads)
    words, truth = None if args.words is None else names_in(args.words), truth_of(args)
    request = request_of("explain", {name: value for name, value in vars(args).items() if name != "out"})
    if args.may_number and processes().count == 1:
        args.out = unused_folder(args.out, request)
    page = args.out.absolute() / PAGE  # who started a wrapper elsewhere can open it
    numbers = page.with_suffix(".json")
    if is_finished(numbers, request):
        announce(f"finished before: {numbers}")
        say(page)
        return
    lvlm = load_lvlm(args.model)
    heads, threshold = adhh_of_list(args.heads, lvlm, args.top_k, args.threshold, args.foreign_heads)
    asked = {"prompt": args.prompt, "max_new_tokens": args.max_new_tokens, "threshold": threshold}
    asked |= {"words": words, "truth": truth}
    inputs = {"model": describe_loaded(lvlm), "image": identify(args.photo), "heads": [list(head) for head in heads]}
    settings = ExplainSettings(**inputs, **asked)
    announce(f"explanation of {args.photo}: greedy decoding and AD-HH with {len(heads)} heads, {args.model}")
    with start_run(args.out, settings, [args.photo.name]):
        found = explain(lvlm, args.photo, heads, max_rows=args.max_rows, **asked)
        if processes().is_main:
            found.page(page, settings=settings.record())
    if processes().is_main:
        mark_finished(numbers, request, [page, args.out / "run.json"])
        say(found)
        say(page)


def unused_folder(folder: Path, request: str) -> Path:
    """The first of photo, photo-2, photo-3, ... that has no explanation, or the one that is asked for."""
    from llava_hh.runs.finished import is_finished

    numbered = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
    for out in itertools.chain([folder], numbered):
        numbers = (out / PAGE).with_suffix(".json")
        if not numbers.exists() or is_finished(numbers, request):
            break
    return out


def truth_of(args: argparse.Namespace) -> list[str] | None:
    """What is in the photo, by --truth or by its row in --objects; None where neither says it.

    Raises:
        ValueError: no row of --objects is the photo's, or the file is of another form.
    """
    from llava_hh.data.own import own_objects
    from llava_hh.files.ids import number_or_text

    if args.objects is None and args.truth is None:
        return None
    image_id = number_or_text(args.photo.name)
    objects = own_objects(args.objects, args.truth, [image_id], str)
    if image_id not in objects:
        raise ValueError(f"{args.objects}: no row with image_id {image_id!r}")
    return sorted(objects[image_id])


main = partial(run_verb, parser=parser, run=run, check=check)

if __name__ == "__main__":
    main()
