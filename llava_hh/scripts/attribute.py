"""Find hallucination heads: the exact influence of every head on hallucinated and true object words (paper).

Object words are those of captions with a hallucination. Every head is ablated at the position that predicts the first
token of a word, one head at a time. The drop of the token's probability is the head's influence. Heads are ranked by
their mean influence on hallucinated words minus that on true ones. The whole attention and the whole MLP of every layer
are ablated too.

Writes attribution_result.json: both head lists, scores, bootstrap intervals over images, and the overlap of the lists
between halves of the images. Writes also targets.jsonl, ablations.safetensors (log-probabilities of every word), and a
picture.

With --of, the lists are those of a part of the images of a finished attribution: in seconds, without a model.
"""

import argparse
from functools import partial

from llava_hh.attribution.contrast import READ_OUTS
from llava_hh.command_line.numbers import FACTOR, RANDOM_SEED, SIZE
from llava_hh.command_line.parser import FILE, FOLDER, METHOD, MODEL, SPEED, ScriptParser
from llava_hh.command_line.script import chosen, run_verb, script_parser
from llava_hh.files.progress import say
from llava_hh.scripts.flags import ATTRIBUTED, add_caption_flags, add_object_flags

OF_PARTS = {"of", "with_object", "without_object"}
OF_BOTH = {"captions", "match", "list_length", "out", "debug", "profile"}


def parser() -> ScriptParser:
    """The flags of `llava-hh attribute`."""
    parser = script_parser(__doc__, "attribute", "llava-hh attribute --profile mini --limit 20 --out results/try")
    add_caption_flags(parser, required=False)
    add_object_flags(parser)
    add = parser.flags(METHOD)
    text = "folder of a finished attribution, for the lists of a part of its images: --with-object, --without-object"
    add("--of", FOLDER, text)
    text = "instead of --captions: JSON lines of answers with labelled words, by any judge, to any question"
    parser.flags(MODEL)("--targets", FILE, text)
    text = "instead of --captions: answers.jsonl of evaluate --task pope; the target is the yes or no of each answer"
    parser.flags(MODEL)("--answers", FILE, f"{text}, wrong ones against right ones", nargs="+")
    parser.instead |= dict.fromkeys(("targets", "answers"), {"captions", "limit", "out"})
    text = "with --targets: what words are labelled; those of the first take the place of hallucinated ones"
    add("--labels", "LABEL", text, nargs=2, default=["hallucinated", "true"])
    text = (
        "first: the first token of each word (paper); all: log-probabilities of a word's tokens added up, each under "
    )
    add("--tokens", ("first", "all"), f"{text}the ablation where it is predicted", default="first")
    text = "what a head's output becomes: 0, its mean over these captions' object words, or itself plus noise of its "
    add("--ablation", ("zero", "mean", "noise"), f"{text}standard deviation there", default="zero")
    add("--noise-scale", FACTOR, "noise: in standard deviations", default=1.0)
    add("--noise-seed", RANDOM_SEED, "noise: of its draws", default=0)
    text = "drop of the probability, its absolute value, or drop of the log-probability; another one is computed from "
    add("--read-out", READ_OUTS, f"{text}the finished run in seconds", default="probability")
    text = (
        "compare hallucinated and true words of the same objects alone, each weighted by how often it is hallucinated"
    )
    add("--match", ("object",), f"{text}; computed from the finished run in seconds")
    text = "targets as in the paper's code: any token whose text equals the first sub-token of a named object"
    add("--released", bool, text)
    text = "measure also what each head does by reading the image, the text after it, the answer so far, and elsewhere"
    add("--by-source", bool, f"{text}; three to five times the work")
    text = "by source: what is left of a head's attention is scaled to 1, as if the source could not be seen"
    add("--renormalise", bool, text)
    text = "measure also each head's direct effect: its own term is taken from the final residual alone"
    add("--direct", bool, text)
    text = "rank the heads also by AllPath's two scores; folder of COCO's instances files, which say where objects are"
    add("--allpath", FOLDER, text)
    add_shortlist = parser.one_of(METHOD)
    text = "measure only the N heads that a first-order estimate puts first; a heuristic, several times faster"
    add_shortlist("--screen", SIZE, text)
    text = "look for the top K only; stop measuring a head once K others are ahead of it, each at 97.5%% confidence"
    add_shortlist("--race", SIZE, text, metavar="K")
    add("--list-length", SIZE, "heads in each of the two lists", "{list_length}", default=30)
    add = parser.flags(SPEED)
    text = "use the first so many captions with a hallucination; all where it is not given"
    add("--limit", SIZE, text, "{attribution_captions}")
    add("--max-rows", SIZE, "most ablated rows at once; bounds the memory", default=4096)
    add("--batch-size", SIZE, "captions per block that a rerun skips", default=8)
    parser.take_from_profile(out=f"{ATTRIBUTED}/identify_attention_head")
    return parser


def check(command: ScriptParser, args: argparse.Namespace) -> None:
    if args.of:
        command.refuse_given("does not go with --of, which measures nothing", command.given - OF_PARTS - OF_BOTH)
    else:
        instead = [name for name in ("targets", "answers") if getattr(args, name)]
        for name in instead:
            command.refuse_given(f"is instead of --{name}", {"captions", "released", *instead} - {name})
        if not args.targets:
            command.refuse_given("needs --targets", {"labels"})
        if args.answers:
            args.labels = ["wrong", "right"]
        if args.released and args.tokens == "all":
            command.error("--tokens all: --released takes single tokens")
        if args.labels[0] == args.labels[1]:
            command.error(f"--labels: {args.labels[0]} twice; expected two labels")
        command.refuse_given("needs --of, a finished attribution", OF_PARTS)
        command.require(args, "model", "image_folder")
        if args.out is None:
            command.error(f"--out: needed with --{instead[0]}, whose heads are not those of captions")
        if args.race:
            command.refuse_given("does not go with --race", {"match"})
        for name in ("targets", "released"):
            if getattr(args, name):
                command.refuse_given(f"does not go with --{name}", {"allpath"})
        if not args.by_source:
            command.refuse_given("needs --by-source", {"renormalise"})


def run(args: argparse.Namespace) -> None:
    from llava_hh.attribution.part import Part, write_part
    from llava_hh.attribution.result import Attribution, attribute_captions, said_of
    from llava_hh.runs.finished import is_finished, left_by_runs, mark_finished, request_of

    if args.of:
        path = write_part(chosen(Part, args))
    else:
        path, request = args.out / "attribution_result.json", request_of("attribute", vars(args))
        if is_finished(path, request):
            say(said_of(path))
        elif path := attribute_captions(chosen(Attribution, args)):
            mark_finished(path, request, left_by_runs(args.out))
    if path:
        from llava_hh.figures.head_map import draw_head_map, draw_source_maps
        from llava_hh.figures.style import picture

        with picture(args.out / "head_map", args.debug) as out:
            draw_head_map(path, out)
        if args.by_source:
            with picture(args.out / "source_maps", args.debug) as out:
                draw_source_maps(path, out)


main = partial(run_verb, parser=parser, run=run, check=check)

if __name__ == "__main__":
    main()
