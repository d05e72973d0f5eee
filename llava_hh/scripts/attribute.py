"""Find hallucination heads: the exact influence of every head on hallucinated and true object words (paper).

For each object word of the captions with a hallucination, every head is ablated at the position that predicts the
word's first token, one head at a time, and the drop of the token's probability is the head's influence. Heads are
ranked by their mean influence on hallucinated words minus that on true ones. Each layer's whole attention and MLP are
ablated too. Writes attribution_result.json (both head lists, scores, bootstrap intervals over images, overlap of the
lists between halves of the images), targets.jsonl, ablations.safetensors (log-probabilities of every word), and a
picture.

With --of, the lists are those of a part of the images of a finished attribution: in seconds, without a model.
"""

from collections.abc import Sequence
from pathlib import Path

from llava_hh.attribution.contrast import READ_OUTS
from llava_hh.command_line.parser import METHOD, SPEED, ScriptParser
from llava_hh.command_line.script import FACTOR, RANDOM_SEED, SIZE, chosen, errors_in_one_line, script_parser
from llava_hh.scripts.flags import ATTRIBUTED, add_caption_flags, add_object_flags

OF_PARTS = {"of", "with_object", "without_object"}
OF_BOTH = {"captions", "list_length", "out", "debug", "profile"}


def parser() -> ScriptParser:
    """The flags of `llava-hh attribute`."""
    parser = script_parser(__doc__, "attribute", "llava-hh attribute --profile mini_quick --limit 20 --out results/try")
    add_caption_flags(parser, required=False)
    add_object_flags(parser)
    add = parser.section(METHOD).add_argument
    text = "folder of a finished attribution, for the lists of a part of its images: --with-object, --without-object"
    add("--of", type=Path, metavar="FOLDER", help=text)
    text = "what a head's output becomes: 0, its mean over these captions' object words, or itself plus noise of its "
    text += "standard deviation there"
    add("--ablation", choices=("zero", "mean", "noise"), default="zero", help=text)
    add("--noise-scale", type=FACTOR, default=1.0, help="noise: in standard deviations")
    add("--noise-seed", type=RANDOM_SEED, default=0, help="noise: of its draws")
    text = "drop of the probability, its absolute value, or drop of the log-probability; another one is computed from "
    text += "the finished run in seconds"
    add("--read-out", choices=READ_OUTS, default="probability", help=text)
    text = "targets as in the paper's code: any token whose text equals the first sub-token of a named object"
    add("--released", action="store_true", help=text)
    shortlist = parser.section(METHOD).add_mutually_exclusive_group()
    text = "measure only the N heads that a first-order estimate puts first; a heuristic, several times faster"
    shortlist.add_argument("--screen", type=SIZE, help=text)
    text = "look for the top K only; stop measuring a head once K others are ahead of it, each at 97.5%% confidence"
    shortlist.add_argument("--race", type=SIZE, metavar="K", help=text)
    add("--list-length", type=SIZE, default=30, help="heads in each of the two lists")
    add = parser.section(SPEED).add_argument
    add("--limit", type=SIZE, help="use the first so many captions with a hallucination; all where it is not given")
    add("--max-rows", type=SIZE, default=4096, help="most ablated rows at once; bounds the memory")
    add("--batch-size", type=SIZE, default=8, help="captions per block that a rerun skips")
    parser.take_from_profile(
        limit="{attribution_captions}",
        list_length="{list_length}",
        out=f"{ATTRIBUTED}/identify_attention_head",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    command = parser()
    args = command.parse_args(argv)
    if args.of:
        command.refuse_given("does not go with --of, which measures nothing", command.given - OF_PARTS - OF_BOTH)
    else:
        command.refuse_given("needs --of, a finished attribution", OF_PARTS)
        command.require(args, "model", "image_folder")
    with errors_in_one_line(args.debug):
        if args.of:
            from llava_hh.attribution.part import Part, write_part

            path = write_part(chosen(Part, args))
        else:
            from llava_hh.attribution.result import Attribution, attribute_captions, said_of
            from llava_hh.runs.finished import is_finished, left_by_runs, mark_finished, request_of

            path, request = args.out / "attribution_result.json", request_of("attribute", vars(args))
            if is_finished(path, request):
                print(said_of(path))
            elif path := attribute_captions(chosen(Attribution, args)):
                mark_finished(path, request, left_by_runs(args.out))
    if path:
        from llava_hh.figures.head_map import draw_head_map
        from llava_hh.figures.style import picture

        with picture(args.out / "head_map", args.debug) as out:
            draw_head_map(path, out)


if __name__ == "__main__":
    main()
