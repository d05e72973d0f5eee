"""TF-HH: fine-tune the query and key rows of hallucination heads, so that they attend less to text.

Writes an ordinary checkpoint folder, --out/model, a log with a row per logged step, and its curves. A killed training
goes on from its last checkpoint when the same command is given again.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path

from tqdm import tqdm

from llava_hh.command_line import FACTOR, RANDOM_SEED, RATE, SHARE, SIZE, errors_in_one_line, script_parser
from llava_hh.data.instruct import InstructionData
from llava_hh.figures.finetuning import draw_finetuning
from llava_hh.figures.style import picture
from llava_hh.files import json_rows, sha256_or_none
from llava_hh.finetuning.batches import Collator, Places, refuse_nothing_to_learn, sample_order
from llava_hh.finetuning.checkpoints import (
    LOG_FILE,
    damage_of,
    drop_checkpoints,
    load_trained_rows,
    own_checkpoints,
    refuse_others,
    steps_of,
    write_manifest,
)
from llava_hh.finetuning.head_rows import (
    TunedRows,
    first_head_of_each_layer,
    merge_tuned_rows,
    tune_head_rows,
    untie_vocabulary,
)
from llava_hh.finetuning.losses import OBJECTIVES, AttentionLoss, TargetedModel
from llava_hh.finetuning.settings import FineTuningSettings, mixed_precision, sharding
from llava_hh.finetuning.trainer import (
    LEFT_OUT,
    TargetedTrainer,
    failing_disk_in_one_line,
    resume_point,
    train,
    training_arguments,
)
from llava_hh.flags import add_head_flags, heads_from_flags
from llava_hh.head_lists import control_heads, heads_with_text
from llava_hh.heads import Head
from llava_hh.hooks import observe
from llava_hh.identity import describe_loaded, digest_of, file_sha256, identify
from llava_hh.models.loading import Loading
from llava_hh.models.lvlm import Lvlm, load_lvlm
from llava_hh.parts import folder_part_of
from llava_hh.runs import begun_run, make_folder, processes, share_out, start_run

MODEL, TRAINED, CHECKPOINTS = "model", "trained", "checkpoints"  # folders in --out


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="checkpoint folder to start from")
    add_head_flags(parser)
    add("--top-k", type=SIZE, default=30, help="how many heads of the list are trained")
    add(
        "--random-heads", type=RANDOM_SEED, metavar="SEED", help="train as many random heads instead, none of the top k"
    )
    add("--released", action="store_true", help="train only the first listed head of each layer, as the released code")
    add("--data", type=Path, required=True, help="conversations, in the layout of llava_v1_5_mix665k.json")
    add("--image-folder", type=Path, required=True, help="folder that the paths of images start from")
    add("--skip-bad", action="store_true", help="leave out bad rows and bad images, instead of stopping there")
    add("--objective", choices=OBJECTIVES, default="minimize_txt", help="what the attention loss is")
    add("--ce-coeff", type=FACTOR, default=1.0, help="weight of the cross entropy")
    add("--attention-coeff", type=FACTOR, default=2.0, help="weight of the attention loss")
    add(
        "--lm-head",
        action=argparse.BooleanOptionalAction,
        help="train the vocabulary matrix too (default: where the model does not tie it to its embeddings)",
    )
    add("--untie", action="store_true", help="give a tied vocabulary matrix numbers of its own, to train it")
    add("--steps", type=SIZE, default=200, help="optimizer steps")
    add("--batch-size", type=SIZE, default=16, help="samples per step, over all processes")
    add("--accumulation", type=SIZE, default=1, help="forward passes that a step is made of")
    add("--learning-rate", type=RATE, default=2e-5, help="its peak; cosine to 0")
    add("--warmup", type=SHARE, default=0.03, help="share of the steps until the peak")
    add("--max-length", type=SIZE, default=2048, help="tokens; what is longer is cut off at its end")
    add("--gradient-checkpointing", action="store_true", help="compute activations twice, to keep fewer of them")
    add("--seed", type=RANDOM_SEED, default=1234, help="of the order of samples")
    add("--log-every", type=SIZE, default=1, help="steps per row of the log")
    add("--save-every", type=SIZE, default=50, help="steps between checkpoints")
    add("--out", type=Path, required=True, help="result folder")
    return parser


def chosen_heads(args: argparse.Namespace, lvlm: Lvlm) -> list[Head]:
    """The heads whose attention the loss is about: the top k, or as many random ones."""
    heads = heads_with_text(lvlm, heads_from_flags(args, lvlm, args.top_k), refuse=True)
    return heads if args.random_heads is None else control_heads(lvlm, heads, args.random_heads)


def prepare(args: argparse.Namespace, lvlm: Lvlm, heads: list[Head]) -> dict[str, TunedRows]:
    """Make what is trained trainable, and nothing else."""
    tied = lvlm.model.get_output_embeddings().weight is lvlm.model.get_input_embeddings().weight
    if args.untie:
        untie_vocabulary(lvlm.model)
        tied = False
    vocabulary = not tied if args.lm_head is None else args.lm_head
    return tune_head_rows(lvlm.model, first_head_of_each_layer(heads) if args.released else heads, vocabulary)


def digests_of_images(folder: Path, names: Iterable[str]) -> dict[str, str | None]:
    """The sha256 of each file, None for one that cannot be read; each is read by one of the processes."""

    def digests(share: Sequence[str]) -> list[str | None]:
        bar = tqdm(share, desc="sha256 of images", unit="image", disable=not processes().is_main)
        return [sha256_or_none(folder / name) for name in bar]

    in_order = sorted(set(names))
    return dict(zip(in_order, share_out(in_order, digests, by_store=True), strict=True))


def settings_of(args: argparse.Namespace, lvlm: Lvlm, heads: list[Head], data: InstructionData) -> FineTuningSettings:
    order = sample_order(data.lengths, data.has_image, args.batch_size, args.steps, args.seed)
    images = digests_of_images(args.image_folder, {name for name in (data[index].image for index in order) if name})
    made = {
        "model": describe_loaded(lvlm),
        "heads": [list(head) for head in heads],
        "data": identify(args.data),
        "images": {"sha256": digest_of(images)},
        "image_folder": str(args.image_folder),
        "mixed_precision": mixed_precision(),
        "sharding": sharding(),
    }
    flags = [each.name for each in fields(FineTuningSettings) if each.name not in made]
    return FineTuningSettings(**made, **{name: getattr(args, name) for name in flags})


def fine_tune(args: argparse.Namespace, lvlm: Lvlm, heads: list[Head], data: InstructionData, settings: str) -> None:
    """Train into --out; the trained rows end up in --out/trained.

    Args:
        settings: their digest.
    Raises:
        ValueError: flags that do not fit together, or data that teach nothing.
    """
    if args.ce_coeff == args.attention_coeff == 0:
        raise ValueError("--ce-coeff 0 --attention-coeff 0: expected a loss to train for")
    samples_a_pass = processes().count * args.accumulation
    if args.batch_size % samples_a_pass:
        raise ValueError(
            f"--batch-size {args.batch_size} is no multiple of {processes().count} processes x "
            f"{args.accumulation} passes"
        )
    if args.gradient_checkpointing:
        lvlm.model.activation_checkpointing_enable({"use_reentrant": False})
    n_parameters = lvlm.model.num_parameters()
    tuned = prepare(args, lvlm, heads)
    print(f"training {sum(part.rows.numel() for part in tuned.values()):,} of {n_parameters:,} parameters")
    order = sample_order(data.lengths, data.has_image, args.batch_size, args.steps, args.seed)
    collate = Collator(lvlm, data, args.image_folder, args.max_length, args.skip_bad)
    refuse_nothing_to_learn(collate, order, from_images=args.attention_coeff > 0)
    attention = AttentionLoss(args.objective)
    trainer = TargetedTrainer(
        TargetedModel(lvlm.model, attention, args.ce_coeff, args.attention_coeff),
        tuned=tuned,
        order=order,
        log=args.out / LOG_FILE,
        settings=settings,
        args=training_arguments(
            args.out / CHECKPOINTS,
            max_steps=args.steps,
            per_device_train_batch_size=args.batch_size // samples_a_pass,
            gradient_accumulation_steps=args.accumulation,
            learning_rate=args.learning_rate,
            warmup_steps=args.warmup,
            logging_steps=args.log_every,
            save_steps=args.save_every,
            seed=args.seed,
        ),
        train_dataset=Places(len(data)),
        data_collator=collate,
    )
    last = resume_point(trainer)
    if last and steps_of(last) == args.steps and not trainer.is_fsdp_enabled:  # killed when all steps were done
        load_trained_rows(tuned, last)
    else:
        with observe(lvlm.model, heads, attention):
            train(trainer, last)
    if processes().is_main:
        say_what_was_left_out(args, trainer.left_out)
    trainer.save_rows(args.out / TRAINED)


def say_what_was_left_out(args: argparse.Namespace, unlogged: Sequence[int]) -> None:
    """Print of how many samples of the whole training nothing was learned, by the log and what it lacks."""
    rows = [row for _, row in json_rows(args.out / LOG_FILE, "the log of this training")]
    logged = [sum(row.get(name, 0) for row in rows) for name in LEFT_OUT]
    bad, unanswered = (sum(both) for both in zip(logged, unlogged, strict=True))
    drawn = args.steps * args.batch_size
    if bad:
        print(f"{bad:,} of {drawn:,} samples were left out for a bad image")
    if unanswered:
        print(f"{unanswered:,} of {drawn:,} samples have no answer within --max-length {args.max_length} tokens")


def save_checkpoint(args: argparse.Namespace, heads: list[Head], out: Path, settings: str) -> None:
    """The start checkpoint with the trained rows in it, as an ordinary folder; complete or not there at all."""
    lvlm = load_lvlm(args.model, Loading(device_map="cpu"))
    tuned = prepare(args, lvlm, heads)
    load_trained_rows(tuned, args.out / TRAINED)
    merge_tuned_rows(lvlm.model, tuned)
    with failing_disk_in_one_line(out, args.out / CHECKPOINTS), folder_part_of(out) as part:
        lvlm.model.save_pretrained(part)
        lvlm.processor.save_pretrained(part)
        write_manifest(part, settings, args.steps)


def is_trained(args: argparse.Namespace) -> bool:
    """Whether --out holds the rows of all steps already; the first process looks, for all.

    Raises:
        ValueError: --out/model is there, and not as it was written; in the first process.
        OSError: a file cannot be read; in the first process.
    """
    team, model, problem = processes(), args.out / MODEL, None
    if team.is_main and model.exists():
        problem = damage_of(model, args.steps, file_sha256)
        if problem:
            raise ValueError(
                f"{model}: {problem}; delete the folder and give the same command again, it is then written anew"
            )
    elif team.is_main:
        problem = damage_of(args.out / TRAINED, args.steps, file_sha256)
    return not any(team.exchange(problem or ""))


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        make_folder(args.out)
        data = InstructionData(args.data, args.skip_bad)
        for message in data.bad:
            print(f"skipped: {message}")
        lvlm = load_lvlm(args.model)
        heads = chosen_heads(args, lvlm)
        result, settings = args.out / MODEL, settings_of(args, lvlm, heads, data)
        digest = settings.digest()
        begun_run(args.out, settings)  # names the settings that differ, where it can
        refuse_others([*own_checkpoints(args.out / CHECKPOINTS), args.out / TRAINED, result], digest)
        with start_run(args.out, settings):
            if not is_trained(args):
                fine_tune(args, lvlm, heads, data, digest)
            if processes().is_main:
                if not result.exists():
                    save_checkpoint(args, heads, result, digest)
                drop_checkpoints(args.out / CHECKPOINTS)
        if processes().is_main:
            print(result)
            with picture(args.out / "curves", args.debug) as out:
                draw_finetuning(args.out / LOG_FILE, out)


if __name__ == "__main__":
    main()
