"""TF-HH from a checkpoint, a head list and conversations to a fine-tuned checkpoint; a killed training goes on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from llava_hh.attention.hooks import observe
from llava_hh.data.instruct import InstructionData
from llava_hh.decoding.head_lists import control_heads, heads_of_list, heads_with_text
from llava_hh.files.files import json_rows, sha256_or_none
from llava_hh.files.parts import folder_part_of
from llava_hh.files.progress import announce, progress, say
from llava_hh.finetuning import checkpoints
from llava_hh.finetuning.batches import Collator, refuse_nothing_to_learn, sample_order
from llava_hh.finetuning.checkpoints import LOG_FILE, damage_of
from llava_hh.finetuning.head_rows import TunedRows, first_heads, merge_tuned_rows, tune_head_rows, untie_vocabulary
from llava_hh.finetuning.losses import AttentionLoss, TargetedModel
from llava_hh.finetuning.settings import FineTuningSettings, Rules, mixed_precision, sharding
from llava_hh.finetuning.trainer import LEFT_OUT, TargetedTrainer, resume_point, training_arguments, writing
from llava_hh.heads import Head
from llava_hh.models.checkpoint import model_type_of
from llava_hh.models.loading import Loading
from llava_hh.models.lvlm import Lvlm, load_lvlm
from llava_hh.runs.identity import describe_loaded, digest_of, file_sha256, identify
from llava_hh.runs.run import begun_run, make_folder, processes, share_out, start_run

MODEL, TRAINED, CHECKPOINTS = "model", "trained", "checkpoints"  # folders in --out


@dataclass(frozen=True)
class Training(Rules):
    """What is trained, on what, and how: the flags of these names."""

    model: Path
    heads: Path
    foreign_heads: bool
    data: Path
    image_folder: Path
    out: Path


def chosen_heads(given: Training, lvlm: Lvlm) -> list[Head]:
    """The heads whose attention the loss is about: the top k, or as many random ones."""
    listed = heads_of_list(given.heads, lvlm, given.top_k, allow_foreign=given.foreign_heads)
    heads = heads_with_text(lvlm, listed, refuse=True)
    return heads if given.random_heads is None else control_heads(lvlm, heads, given.random_heads)


def prepare(given: Training, lvlm: Lvlm, heads: list[Head]) -> dict[str, TunedRows]:
    """Make what is trained trainable, and nothing else."""
    if given.untie:
        untie_vocabulary(lvlm.model)
    is_tied = lvlm.model.get_output_embeddings().weight is lvlm.model.get_input_embeddings().weight
    vocabulary = not is_tied if given.lm_head is None else given.lm_head
    return tune_head_rows(lvlm.model, first_heads(heads) if given.released else heads, vocabulary)


def digests_of_images(folder: Path, names: Iterable[str]) -> dict[str, str | None]:
    """The sha256 of each file, None for one that cannot be read; the processes share the files out."""

    def digests(share: Sequence[str]) -> list[str | None]:
        return [sha256_or_none(folder / name) for name in progress("sha256 of images", "image", share)]

    in_order = sorted(set(names))
    return dict(zip(in_order, share_out(in_order, digests), strict=True))


def settings_of(
    given: Training, lvlm: Lvlm, heads: list[Head], data: InstructionData, order: Sequence[int]
) -> FineTuningSettings:
    images = digests_of_images(given.image_folder, {name for name in (data[index].image for index in order) if name})
    made = {
        "model": describe_loaded(lvlm),
        "heads": [list(head) for head in heads],
        "data": identify(given.data),
        "images": {"sha256": digest_of(images)},
        "image_folder": str(given.image_folder),
        "mixed_precision": mixed_precision(),
        "sharding": sharding(),
    }
    return FineTuningSettings(**made, **{rule.name: getattr(given, rule.name) for rule in fields(Rules)})


def fine_tune(
    given: Training, lvlm: Lvlm, heads: list[Head], data: InstructionData, order: Sequence[int], settings: str
) -> None:
    """Train into --out; the trained rows are saved in --out/trained.

    Args:
        order: the samples of all steps; settings: the digest of `FineTuningSettings`.
    Raises:
        ValueError: flags that do not fit together, or data that teach nothing.
    """
    if given.ce_coeff == given.attention_coeff == 0:
        raise ValueError("--ce-coeff 0 --attention-coeff 0: expected a loss to train for")
    samples_a_pass = processes().count * given.accumulation
    if given.batch_size % samples_a_pass:
        passes = f"{processes().count} processes x {given.accumulation} passes"
        raise ValueError(f"--batch-size {given.batch_size} is no multiple of {passes}")
    if given.gradient_checkpointing:
        lvlm.model.activation_checkpointing_enable({"use_reentrant": False})
    n_parameters = lvlm.model.num_parameters()
    tuned = prepare(given, lvlm, heads)
    n_trained = sum(part.rows.numel() for part in tuned.values())
    which = f"{len(heads)} {'' if given.random_heads is None else 'random '}heads of {given.model}"
    announce(
        f"fine-tuning: {given.steps} steps of {given.batch_size} samples, {given.objective}, {which}: "
        f"{n_trained:,} of {n_parameters:,} parameters, into {given.out}"
    )
    collate = Collator(lvlm, data, given.image_folder, given.max_length, given.skip_bad)
    refuse_nothing_to_learn(collate, order, from_images=given.attention_coeff > 0)
    attention = AttentionLoss(given.objective)
    model = TargetedModel(lvlm.model, attention, given.ce_coeff, given.attention_coeff)
    arguments = training_arguments(given.out / CHECKPOINTS, given, given.batch_size // samples_a_pass)
    read = {"train_dataset": range(len(data)), "data_collator": collate}
    trainer = TargetedTrainer(model, tuned, order, given.out / LOG_FILE, settings, args=arguments, **read)
    last = resume_point(trainer)
    is_done = last and checkpoints.steps_of(last) == given.steps  # killed after the last step
    if is_done and not trainer.is_fsdp_enabled:
        checkpoints.load_trained_rows(tuned, last)
    else:
        with observe(lvlm.model, heads, attention):
            trainer.train_from(last)
    if processes().is_main:
        say_what_was_left_out(given, trainer.left_out)
    trainer.save_rows(given.out / TRAINED)


def say_what_was_left_out(given: Training, unlogged: Sequence[int]) -> None:
    """Print how many samples of the whole training were left out, by the log and the counts after its last row."""
    rows = [row for _, row in json_rows(given.out / LOG_FILE, "the log of this training")]
    logged = [sum(row.get(name, 0) for row in rows) for name in LEFT_OUT]
    bad, unanswered = (sum(both) for both in zip(logged, unlogged, strict=True))
    drawn = given.steps * given.batch_size
    if bad:
        say(f"{bad:,} of {drawn:,} samples were left out for a bad image")
    if unanswered:
        say(f"{unanswered:,} of {drawn:,} samples have no answer within --max-length {given.max_length} tokens")


def save_checkpoint(given: Training, heads: list[Head], out: Path, settings: str) -> None:
    """Write the start checkpoint with the trained rows in it, as an ordinary folder; complete or not there at all."""
    lvlm = load_lvlm(given.model, Loading(device_map="cpu"))
    tuned = prepare(given, lvlm, heads)
    checkpoints.load_trained_rows(tuned, given.out / TRAINED)
    merge_tuned_rows(lvlm.model, tuned)
    with writing(out, given.out / CHECKPOINTS), folder_part_of(out) as part:
        lvlm.model.save_pretrained(part)
        lvlm.processor.save_pretrained(part)
        checkpoints.write_manifest(part, settings, given.steps)


def refuse_conditions_alone(model: Path, lvlm: Lvlm) -> None:
    """Check that what is trained will be asked as its start is.

    Raises:
        ValueError: the folder only says how another checkpoint is asked, which a folder of weights would not.
    """
    asked_as, saved_as = model_type_of(model), lvlm.model.config.model_type
    if asked_as != saved_as:
        problem = f"{model} asks a checkpoint of {saved_as} as {asked_as}, a tuned one would be asked as {saved_as}"
        raise ValueError(f"{problem}; fine-tune the checkpoint that its config.json names, and name it in a copy")


def is_trained(given: Training) -> bool:
    """Whether --out holds the rows of all steps already; the first process looks, for all.

    Raises:
        ValueError: --out/model is there, and not as it was written; in the first process.
        OSError: a file cannot be read; in the first process.
    """
    team, model, problem = processes(), given.out / MODEL, None
    if team.is_main and model.exists():
        if problem := damage_of(model, given.steps, file_sha256):
            advice = "delete the folder and give the same command again, it is then written anew"
            raise ValueError(f"{model}: {problem}; {advice}")
    elif team.is_main:
        problem = damage_of(given.out / TRAINED, given.steps, file_sha256)
    return not any(team.exchange(problem or ""))


def finetune(given: Training) -> Path | None:
    """Train, or go on with it; writes `out`/model, an ordinary checkpoint folder, and the log.

    Returns: the log, for its curves; None for a process that is not the first.
    Raises:
        ValueError: flags, data or a head list that do not fit, or a folder of another run.
        OSError: a file or folder cannot be read or written.
    """
    make_folder(given.out)
    data = InstructionData(given.data, given.skip_bad)
    for message in data.bad:
        say(f"skipped: {message}")
    lvlm = load_lvlm(given.model)
    refuse_conditions_alone(given.model, lvlm)
    heads, result = chosen_heads(given, lvlm), given.out / MODEL
    order = sample_order(data.lengths, data.has_image, given.batch_size, given.steps, given.seed)
    settings = settings_of(given, lvlm, heads, data, order)
    digest = settings.digest()
    begun_run(given.out, settings)  # names the settings that differ, where it can
    made = [*checkpoints.own_checkpoints(given.out / CHECKPOINTS), given.out / TRAINED, result]
    checkpoints.refuse_others(made, digest)
    with start_run(given.out, settings):
        if not is_trained(given):
            fine_tune(given, lvlm, heads, data, order, digest)
        if processes().is_main:
            if not result.exists():
                save_checkpoint(given, heads, result, digest)
            checkpoints.drop_checkpoints(given.out / CHECKPOINTS)
    if not processes().is_main:
        return None
    say(result)
    return given.out / LOG_FILE
