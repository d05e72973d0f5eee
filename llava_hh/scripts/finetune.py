"""TF-HH: fine-tune the query and key rows of hallucination heads, so that they attend less to text.

Writes an ordinary checkpoint folder, --out/model, a log with a row per logged step, and its curves. A killed training
goes on from its last checkpoint when the same command is given again.
"""

import argparse
from functools import partial

from llava_hh.command_line.numbers import FACTOR, RANDOM_SEED, RATE, SHARE, SIZE
from llava_hh.command_line.parser import CHECKPOINT, FILE, FOLDER, METHOD, MODEL, OUTPUT, SPEED, ScriptParser
from llava_hh.command_line.script import chosen, run_verb, script_parser
from llava_hh.files.progress import say
from llava_hh.finetuning.settings import OBJECTIVES
from llava_hh.scripts.flags import add_head_flags, add_out_flag

TUNED = "{result_path}/targeted_finetune"


def parser() -> ScriptParser:
    """The flags of `llava-hh finetune`."""
    parser = script_parser(__doc__, "finetune", "llava-hh finetune --profile mini --steps 5 --out results/try")
    add = parser.flags(MODEL)
    add(
        "--model",
        CHECKPOINT,
        "checkpoint to start from: a folder, or org/name of the hub",
        "{model_path}",
        required=True,
    )
    add("--data", FILE, "conversations, in the layout of llava_v1_5_mix665k.json", "{instruct_path}", required=True)
    add("--image-folder", FOLDER, "folder that the paths of images start from", "{instruct_images}", required=True)
    add("--skip-bad", bool, "leave out bad rows and bad images, instead of stopping there")
    add_head_flags(parser)
    add = parser.flags(METHOD)
    add("--top-k", SIZE, "how many heads of the list are trained", "{finetune_top_k}", default=30)
    add("--random-heads", RANDOM_SEED, "train as many random heads instead, none of the top k")
    add("--released", bool, "train only the first listed head of each layer, as the released code")
    add("--objective", OBJECTIVES, "what the attention loss is", default="minimize_txt")
    add("--ce-coeff", FACTOR, "weight of the cross entropy", default=1.0)
    add("--attention-coeff", FACTOR, "weight of the attention loss", "{finetune_attention_coeff}", default=2.0)
    text = "train the vocabulary matrix too (default: where the model does not tie it to its embeddings)"
    parser.section(METHOD).add_argument("--lm-head", action=argparse.BooleanOptionalAction, help=text)
    add("--untie", bool, "give a tied vocabulary matrix numbers of its own, to train it", "{finetune_untie}")
    add("--learning-rate", RATE, "its peak; cosine to 0", "{finetune_learning_rate}", default=2e-5)
    add("--warmup", SHARE, "share of the steps until the peak", default=0.03)
    add("--seed", RANDOM_SEED, "of the order of samples", default=1234)
    add = parser.flags(SPEED)
    add("--steps", SIZE, "optimizer steps", "{finetune_steps}", default=200)
    add("--batch-size", SIZE, "samples per step, over all processes", "{finetune_batch_size}", default=16)
    add("--accumulation", SIZE, "forward passes that a step is made of", default=1)
    add("--max-length", SIZE, "tokens; what is longer is cut off at its end", default=2048)
    text = "compute activations twice, to keep fewer of them"
    add("--gradient-checkpointing", bool, text, "{finetune_checkpointing}")
    add = parser.flags(OUTPUT)
    add("--log-every", SIZE, "steps per row of the log", default=1)
    add("--save-every", SIZE, "steps between checkpoints", default=50)
    add_out_flag(parser, lambda known: f"{TUNED}/{'random' if 'random_heads' in known else 'heads'}_{{seed}}")
    return parser


def run(args: argparse.Namespace) -> None:
    from llava_hh.finetuning.run import LOG_FILE, MODEL, Training, finetune
    from llava_hh.runs.finished import is_finished, mark_finished, request_of

    log, request = args.out / LOG_FILE, request_of("finetune", vars(args))
    if is_finished(log, request):
        say(f"finished before: {args.out / MODEL}")
    elif finetune(chosen(Training, args)):
        mark_finished(log, request, [args.out / MODEL, args.out / "run.json"])
    else:
        return
    from llava_hh.figures.finetuning import draw_finetuning
    from llava_hh.figures.style import picture

    with picture(args.out / "curves", args.debug) as out:
        draw_finetuning(log, out)


main = partial(run_verb, parser=parser, run=run)

if __name__ == "__main__":
    main()
