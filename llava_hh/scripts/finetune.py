"""TF-HH: fine-tune the query and key rows of hallucination heads, so that they attend less to text.

Writes an ordinary checkpoint folder, --out/model, a log with a row per logged step, and its curves. A killed training
goes on from its last checkpoint when the same command is given again.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from llava_hh.command_line.parser import METHOD, MODEL, OUTPUT, SPEED, ScriptParser
from llava_hh.command_line.script import (
    FACTOR,
    RANDOM_SEED,
    RATE,
    SHARE,
    SIZE,
    chosen,
    errors_in_one_line,
    script_parser,
)
from llava_hh.finetuning.settings import OBJECTIVES
from llava_hh.scripts.flags import add_head_flags


def parser() -> ScriptParser:
    """The flags of `llava-hh finetune`."""
    parser = script_parser(__doc__, "finetune", "llava-hh finetune --profile mini_quick --steps 5 --out results/try")
    add = parser.section(MODEL).add_argument
    add("--model", type=Path, metavar="FOLDER", required=True, help="checkpoint folder to start from")
    text = "conversations, in the layout of llava_v1_5_mix665k.json"
    add("--data", type=Path, metavar="FILE", required=True, help=text)
    text = "folder that the paths of images start from"
    add("--image-folder", type=Path, metavar="FOLDER", required=True, help=text)
    add("--skip-bad", action="store_true", help="leave out bad rows and bad images, instead of stopping there")
    add_head_flags(parser)
    add = parser.section(METHOD).add_argument
    add("--top-k", type=SIZE, default=30, help="how many heads of the list are trained")
    add("--random-heads", type=RANDOM_SEED, help="train as many random heads instead, none of the top k")
    text = "train only the first listed head of each layer, as the released code"
    add("--released", action="store_true", help=text)
    add("--objective", choices=OBJECTIVES, default="minimize_txt", help="what the attention loss is")
    add("--ce-coeff", type=FACTOR, default=1.0, help="weight of the cross entropy")
    add("--attention-coeff", type=FACTOR, default=2.0, help="weight of the attention loss")
    text = "train the vocabulary matrix too (default: where the model does not tie it to its embeddings)"
    add("--lm-head", action=argparse.BooleanOptionalAction, help=text)
    add("--untie", action="store_true", help="give a tied vocabulary matrix numbers of its own, to train it")
    add("--learning-rate", type=RATE, default=2e-5, help="its peak; cosine to 0")
    add("--warmup", type=SHARE, default=0.03, help="share of the steps until the peak")
    add("--seed", type=RANDOM_SEED, default=1234, help="of the order of samples")
    add = parser.section(SPEED).add_argument
    add("--steps", type=SIZE, default=200, help="optimizer steps")
    add("--batch-size", type=SIZE, default=16, help="samples per step, over all processes")
    add("--accumulation", type=SIZE, default=1, help="forward passes that a step is made of")
    add("--max-length", type=SIZE, default=2048, help="tokens; what is longer is cut off at its end")
    text = "compute activations twice, to keep fewer of them"
    add("--gradient-checkpointing", action="store_true", help=text)
    add = parser.section(OUTPUT).add_argument
    add("--log-every", type=SIZE, default=1, help="steps per row of the log")
    add("--save-every", type=SIZE, default=50, help="steps between checkpoints")
    add("--out", type=Path, metavar="FOLDER", required=True, help="result folder")
    parser.take_from_profile(
        model="{model_path}",
        data="{instruct_path}",
        image_folder="{instruct_images}",
        top_k="{finetune_top_k}",
        attention_coeff="{finetune_attention_coeff}",
        untie="{finetune_untie}",
        learning_rate="{finetune_learning_rate}",
        steps="{finetune_steps}",
        batch_size="{finetune_batch_size}",
        gradient_checkpointing="{finetune_checkpointing}",
        out=lambda known: f"{{result_path}}/targeted_finetune/{_kind(known)}_{{seed}}",
    )
    return parser


def _kind(known: dict) -> str:
    return "heads" if known.get("random_heads") is None else "random"


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        from llava_hh.finetuning.run import LOG_FILE, MODEL, Training, finetune
        from llava_hh.runs.finished import is_finished, mark_finished, request_of

        log, request = args.out / LOG_FILE, request_of("finetune", vars(args))
        if is_finished(log, request):
            print(f"finished before: {args.out / MODEL}")
        elif log := finetune(chosen(Training, args)):
            mark_finished(log, request, [args.out / MODEL, args.out / "run.json"])
    if log:
        from llava_hh.figures.finetuning import draw_finetuning
        from llava_hh.figures.style import picture

        with picture(args.out / "curves", args.debug) as out:
            draw_finetuning(log, out)


if __name__ == "__main__":
    main()
