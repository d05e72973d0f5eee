"""Explain one image: what the model says of it greedily and under AD-HH, and which heads brought each object word.

Prints both captions, the heads behind each object word, and how often AD-HH fired. Writes explanation.html, a page with
all of that, where heads look and at which tokens they were switched off, and its numbers in explanation.json. Without
--model and --profile the model is mini.
"""

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llava_hh.command_line.numbers import FRACTION, SIZE
from llava_hh.command_line.parser import CHECKPOINT, FOLDER, METHOD, MODEL, OUTPUT, SPEED, Known, ScriptParser
from llava_hh.command_line.profiles import REPO
from llava_hh.command_line.script import run_verb, script_parser
from llava_hh.data.own import folder_name
from llava_hh.files.files import refuse_foreign
from llava_hh.files.progress import announce, say
from llava_hh.models.questions import DESCRIBE
from llava_hh.runs.settings import Settings
from llava_hh.scripts.flags import add_head_flags, add_truth_flags, say_turned

PAGE = "explanation.html"
OF_NO_RESULT = {"out", "max_rows", "may_number"}  # flags that an explanation does not depend on


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
    parser.instead["model"] = {"heads", "top_k", "threshold"}  # a profile's are of its own model
    add = parser.flags(METHOD)
    text = "how many heads of the list AD-HH switches off; 20 by default, or as a published list says"
    add("--top-k", SIZE, text, "{top_k}")
    text = "attention mass after the image at which a head is switched off; 0.4 by default, or as a published list says"
    add("--threshold", FRACTION, text, "{threshold}")
    add = parser.flags(SPEED)
    add("--max-new-tokens", SIZE, "longest answer", "{max_new_tokens}", default=128)
    add("--max-rows", SIZE, "most ablated rows at once; bounds the memory", default=4096)
    text = "result folder; results/explain/<name of the photo> by default, with -2 behind it where another is there"
    parser.flags(OUTPUT)("--out", FOLDER, text, lambda known: f"{{result_path}}/explain/{folder_name(known['photo'])}")
    return parser


def head_list(known: Known) -> str:
    """The list that attribution found with this profile, or where there is none, the one published for its model."""
    found = known["head_list"]
    return found if (REPO / found).is_file() else "published"


def check(command: ScriptParser, args: argparse.Namespace) -> None:
    args.out = args.out or Path("results") / "explain" / folder_name(args.photo)
    if not args.photo.exists():
        command.error(f"{args.photo}: no such image; expected the file of a photo")
    say_turned([args.photo])
    if "heads" not in command.given and args.heads in (None, Path("published")):
        args.heads = Path("published")
        announce("heads: those published for a model like this, if any; --heads names others (of llava-hh attribute)")
    elif "heads" not in command.given:
        announce(f"heads: those that attribution found, {args.heads}; --heads names others")
    args.may_number = "out" not in command.given


def run(args: argparse.Namespace) -> None:
    from llava_hh.api.explain import explain, named_objects
    from llava_hh.data.own import names_in
    from llava_hh.decoding.head_lists import adhh_of_list
    from llava_hh.decoding.reading import refuse_no_list
    from llava_hh.files.images import load_image
    from llava_hh.models.lvlm import load_lvlm
    from llava_hh.runs.finished import is_finished, mark_finished, request_of
    from llava_hh.runs.identity import describe_loaded, identify
    from llava_hh.runs.run import processes, start_run

    load_image(args.photo)  # refused before the model is loaded
    refuse_no_list(args.heads)
    words = None if args.words is None else names_in(args.words)
    if words == []:
        raise ValueError(f"--words {args.words!r}: no word in it; leave it out, or name some, such as 'spoon, table'")
    truth = truth_of(args)
    if truth is not None:
        named_objects(truth, words or ())
    asked = {name: value for name, value in vars(args).items() if name not in OF_NO_RESULT}
    request = request_of("explain", {**asked, "photo": identify(args.photo)})
    for out in folders(args):
        if is_finished(numbers := (out / PAGE).with_suffix(".json"), request):
            announce(f"finished before: {numbers}")
            say((out / PAGE).absolute())  # who started a wrapper elsewhere can open it
            return
        if not out.exists():
            break
    if not args.may_number:
        refuse_foreign(args.out / PAGE)
    lvlm = load_lvlm(args.model)
    heads, threshold = adhh_of_list(args.heads, lvlm, args.top_k, args.threshold, args.foreign_heads)
    asked = {"prompt": args.prompt, "max_new_tokens": args.max_new_tokens, "threshold": threshold}
    asked |= {"words": words, "truth": truth}
    inputs = {"model": describe_loaded(lvlm), "image": identify(args.photo), "heads": [list(head) for head in heads]}
    settings = ExplainSettings(**inputs, **asked)
    out = next(out for out in folders(args) if not args.may_number or _may_hold(out, settings))
    page = out.absolute() / PAGE
    announce(f"explanation of {args.photo}: greedy decoding and AD-HH with {', '.join(map(str, heads))}, {args.model}")
    with start_run(out, settings, [args.photo.name]):
        found = explain(lvlm, args.photo, heads, max_rows=args.max_rows, **asked)
        if processes().is_main:
            found.page(page, settings=settings.record())
    if processes().is_main:
        mark_finished(page.with_suffix(".json"), request, [page, out / "run.json"])
        say(found)
        say(page)


def folders(args: argparse.Namespace) -> Iterator[Path]:
    """Where an explanation may lie: --out, or photo, photo-2, photo-3, ..."""
    yield args.out
    if args.may_number:
        yield from (args.out.with_name(f"{args.out.name}-{number}") for number in itertools.count(2))


def _may_hold(folder: Path, settings: ExplainSettings) -> bool:
    """Whether a folder is free, or has an explanation of these settings, finished or not."""
    from llava_hh.runs.run import begun_run

    try:
        begun_run(folder, settings)
        refuse_foreign(folder / PAGE)
    except (ValueError, FileExistsError):
        return False
    return True


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
