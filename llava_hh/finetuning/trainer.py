"""TF-HH on transformers' Trainer: checkpoints of the trained rows, resuming, a log row per step."""

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import ProgressCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from llava_hh.files.files import in_one_line, read_json, replacing, write_json, write_text
from llava_hh.files.memory import is_out_of_memory
from llava_hh.files.progress import Forecast, is_on_terminal, reach, say
from llava_hh.finetuning import checkpoints
from llava_hh.finetuning.checkpoints import LOG_FILE, MANIFEST, SINCE_LOG, TRAINED_FILE
from llava_hh.finetuning.head_rows import TunedRows
from llava_hh.finetuning.losses import IGNORED, TargetedModel, answer_rows
from llava_hh.finetuning.settings import Rules
from llava_hh.runs.run import processes

LEFT_OUT = ("n_bad_images", "n_unanswered")  # of a batch and of a log row: samples from which nothing is learned


class TimeLeft(TrainerCallback):
    """Prints after the first step how long the others take."""

    def __init__(self) -> None:
        self.forecast = Forecast("fine-tuning", "step")

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.forecast.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.forecast.end(1, [state.max_steps - state.global_step])

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        reach(state.global_step, state.max_steps, "step", "fine-tuning")


class TargetedTrainer(Trainer):
    """Trainer whose checkpoints hold the trained rows alone, and the log up to them; they count only when complete.

    Args:
        tuned: the trained parts by name.
        order: the samples of all steps.
        log: a JSON-lines file, a row per step.
        digest: of the settings; more: Trainer's arguments.
    """

    def __init__(
        self, model: TargetedModel, tuned: dict[str, TunedRows], order: list[int], log: Path, digest: str, **more: Any
    ) -> None:
        self.tuned, self.order, self.log_file, self.digest = tuned, order, log, digest
        self.passes: list[Tensor] = []  # losses and masses of this process since the last log or checkpoint
        # since the last log, over all processes: the sums of earlier passes, their number, and samples left out
        self.sums, self.n_passes, self.left_out = torch.zeros(()), 0, [0] * len(LEFT_OUT)
        self.loss_is_scaled_for_ga = True  # the counts are those of all accumulated batches
        super().__init__(model=model, **more)
        self.remove_callback(PrinterCallback)  # where there is no bar; the log has it all
        self.add_callback(TimeLeft)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> list[int]:
        return self.order

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor:
        counts = torch.zeros(2 + len(LEFT_OUT), dtype=torch.long, device=device)
        for batch in batch_samples:
            counts[0] += (batch["labels"] != IGNORED).sum().to(device)
            counts[1] += answer_rows(batch["image_mask"], batch["labels"]).sum().to(device)
            counts[2:] += torch.tensor([batch[name] for name in LEFT_OUT], device=device)
        counts = self.accelerator.reduce(counts, "sum")
        self.left_out = [sum(both) for both in zip(self.left_out, counts[2:].tolist(), strict=True)]
        return counts[:2]

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        outputs = model(inputs["inputs"], inputs["image_mask"], inputs["labels"], counts=num_items_in_batch)
        if not math.isfinite(loss := outputs["loss"].item()):
            step, samples = self.state.global_step + 1, ", ".join(map(str, inputs["sample_ids"]))
            advice = "Lower --learning-rate, or leave these samples out"
            raise ValueError(f"step {step}: the loss is {loss}; samples {samples}. {advice}")
        self.passes.append(torch.stack([value.detach().float() for value in outputs.values()]))
        self.names = list(outputs)
        # processes average their gradients, and each has divided by the counts of all
        return outputs["loss"] * self.accelerator.num_processes

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the means since the last log to Trainer's numbers, and write both to the log file."""
        if self.passes and "learning_rate" in logs:
            self._sum_up()
            totals = self.sums / (self.n_passes / self.args.gradient_accumulation_steps)
            logs = {
                "step": self.state.global_step,
                **dict(zip(self.names, totals.tolist(), strict=True)),
                "learning_rate": logs["learning_rate"],
                "grad_norm": logs.get("grad_norm"),
                **dict(zip(LEFT_OUT, self.left_out, strict=True)),
            }
            self.sums, self.n_passes, self.left_out = torch.zeros(()), 0, [0] * len(LEFT_OUT)
            if self.is_world_process_zero():
                with open(self.log_file, "a", encoding="utf-8") as file:
                    file.write(json.dumps(logs) + "\n")
        super().log(logs, *args, **kwargs)

    def _sum_up(self) -> None:
        """Add the `passes` of all processes to `sums`."""
        if self.passes:
            of_process = torch.stack(self.passes).sum(0)
            self.sums = self.sums.to(of_process.device) + self.accelerator.reduce(of_process, "sum")
            self.n_passes += len(self.passes)
            self.passes = []

    def recall(self, checkpoint: Path) -> None:
        """Restore the sums since the last log from a checkpoint."""
        since = read_json(checkpoint / SINCE_LOG)
        self.sums, self.n_passes, self.left_out = torch.tensor(since["sums"]), since["n_passes"], since["left_out"]

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            whole = state_dict or {f"model.{name}.rows": part.rows for name, part in self.tuned.items()}
            rows = {name: whole[f"model.{name}.rows"].detach().cpu().contiguous() for name in self.tuned}
            with replacing(folder / TRAINED_FILE) as part:
                save_file(rows, part)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self.args.output_dir)
        checkpoint = folder / f"checkpoint-{self.state.global_step}"
        with writing(checkpoint, folder):
            if self.args.should_save and checkpoint.exists():  # one that was passed over
                checkpoints.drop_checkpoint(checkpoint)
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)
            self._sum_up()
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                write_text(checkpoint / LOG_FILE, _text_of(self.log_file))
                since = {"sums": self.sums.tolist(), "n_passes": self.n_passes, "left_out": self.left_out}
                write_json(checkpoint / SINCE_LOG, since)
                checkpoints.write_manifest(checkpoint, self.digest, self.state.global_step)
                checkpoints.drop_old_checkpoints(folder, self.state.global_step)

    def save_rows(self, folder: Path) -> None:
        """Save the trained rows of all steps, by all processes together."""
        with writing(folder, Path(self.args.output_dir)):
            if self.args.should_save:
                (folder / MANIFEST).unlink(missing_ok=True)
            self.save_model(str(folder))
            if self.args.should_save:
                checkpoints.write_manifest(folder, self.digest, self.args.max_steps)

    def train_from(self, last: Path | None) -> None:
        """Train to the end, from the checkpoint `last` if there is one."""
        self.accelerator.wait_for_everyone()
        try:
            try:
                self.train(resume_from_checkpoint=str(last) if last else None)
            except UnpicklingError as error:
                what = f"a file of its state is {in_one_line(error)}"
                raise ValueError(f"{last}: {what}; delete this checkpoint and give the same command again") from None
        finally:
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, ProgressCallback) and callback.training_bar is not None:
                    callback.training_bar.close()  # else an error would stand in the bar's line

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            checkpoints.load_trained_rows(self.tuned, Path(resume_from_checkpoint))


@contextmanager
def writing(written: Path, folder: Path) -> Iterator[None]:
    """Turn the errors of writing `written` into one OSError that says from which checkpoint in `folder` to go on.

    Torch and safetensors raise other errors than OSError where the disk is full.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        where = "its last whole checkpoint"
        with suppress(OSError, ValueError):
            where = checkpoints.last_whole_checkpoint(folder) or "the start"
        what = f"could not be written ({in_one_line(error)}); make room and give the same command again"
        raise OSError(f"{written}: {what}, it goes on from {where}") from error


def resume_point(trainer: TargetedTrainer) -> Path | None:
    """The checkpoint to go on from, for all processes; warns of later ones that were passed over, and keeps them.

    The log becomes that of the checkpoint.

    Raises:
        ValueError: a checkpoint of an earlier version; in the first process.
        OSError: a file is there and cannot be read; in the first process.
    """
    team, folder, warnings, name = processes(), Path(trainer.args.output_dir), [], ""
    if team.is_main:
        last = checkpoints.last_whole_checkpoint(folder, warnings.append)
        begun = read_json(last / MANIFEST)["processes"] if last else team.count
        if begun != team.count:
            what = f"made by {begun} processes, not {team.count}; sums round otherwise, and random numbers begin anew"
            warnings.append(f"{last}: {what}")
        if warnings and not last:
            warnings.append(f"{folder}: no whole checkpoint there; training begins anew")
        for warning in warnings:
            say(f"warning: {warning}", file=sys.stderr)
        write_text(trainer.log_file, _text_of(last / LOG_FILE) if last else "")
        name = last.name if last else ""
    name = team.exchange(name)[0]
    if not name:
        return None
    trainer.recall(folder / name)
    return folder / name


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def training_arguments(folder: Path, rules: Rules, samples_at_once: int) -> TrainingArguments:
    """The arguments of Trainer, by our rules; `samples_at_once`: of one pass of one process."""
    on_cpu = not torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=rules.steps,
        per_device_train_batch_size=samples_at_once,
        gradient_accumulation_steps=rules.accumulation,
        learning_rate=rules.learning_rate,
        warmup_steps=rules.warmup,
        lr_scheduler_type="cosine",
        weight_decay=0.0,
        optim="adamw_torch",
        max_grad_norm=1.0,
        seed=rules.seed,
        save_strategy="steps",
        save_steps=rules.save_every,
        logging_steps=rules.log_every,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=not is_on_terminal(),
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        use_cpu=on_cpu,
        ddp_backend="gloo" if on_cpu and processes().count > 1 else None,
    )
