"""TF-HH on transformers' Trainer: checkpoints of the trained rows, resuming, a row of log per step."""

import json
import math
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import ProgressCallback, Trainer, TrainingArguments

from llava_hh.files import in_one_line, write_text
from llava_hh.finetuning.batches import FixedOrder
from llava_hh.finetuning.head_rows import TunedRows
from llava_hh.finetuning.losses import IGNORED, TargetedModel, answer_rows
from llava_hh.runs import processes

TRAINED_FILE = "trained_rows.safetensors"
LEFT_OUT = ("n_bad_images", "n_unanswered")  # of a batch and of a row of the log: samples that nothing is learned from
COMPLETE = "complete"  # a file that a checkpoint folder gets last


class TargetedTrainer(Trainer):
    """Trainer whose checkpoints hold the trained rows alone and count only when complete.

    Args:
        tuned: the trained parts by name.
        order: the samples of all steps.
        log: a JSON-lines file, a row per step.
    """

    def __init__(
        self, model: TargetedModel, tuned: dict[str, TunedRows], order: Sequence[int], log: Path, **options: Any
    ) -> None:
        self.tuned, self.order, self.log_file = tuned, order, log
        self.parts: list[Tensor] = []
        self.left_out = [0] * len(LEFT_OUT)  # samples since the last log, over all processes
        self.loss_is_scaled_for_ga = True  # the counts are those of all accumulated batches
        super().__init__(model=model, **options)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> FixedOrder:
        return FixedOrder(self.order)

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
        sample_ids = inputs["sample_ids"]
        outputs = model(inputs["inputs"], inputs["image_mask"], inputs["labels"], counts=num_items_in_batch)
        if not math.isfinite(outputs["loss"].item()):
            step = self.state.global_step + 1
            raise ValueError(
                f"step {step}: the loss is {outputs['loss'].item()}; samples {', '.join(map(str, sample_ids))}. "
                "Lower --learning-rate, or leave these samples out"
            )
        self.parts.append(torch.stack([value.detach().float() for value in outputs.values()]))
        self.part_names = list(outputs)
        # processes average their gradients, and each has divided by the counts of all
        return outputs["loss"] * self.accelerator.num_processes

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add what was measured since the last log to Trainer's own numbers, and both to the log file."""
        if self.parts and "learning_rate" in logs:
            steps = len(self.parts) / self.args.gradient_accumulation_steps
            totals = self.accelerator.reduce(torch.stack(self.parts).sum(0), "sum") / steps
            self.parts = []
            logs = {
                "step": self.state.global_step,
                **dict(zip(self.part_names, totals.tolist(), strict=True)),
                "learning_rate": logs["learning_rate"],
                "grad_norm": logs.get("grad_norm"),
                **dict(zip(LEFT_OUT, self.left_out, strict=True)),
            }
            self.left_out = [0] * len(LEFT_OUT)
            if self.is_world_process_zero():
                with open(self.log_file, "a", encoding="utf-8") as file:
                    file.write(json.dumps(logs) + "\n")
        super().log(logs, *args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            whole = state_dict or {f"model.{name}.rows": part.rows for name, part in self.tuned.items()}
            rows = {name: whole[f"model.{name}.rows"].detach().cpu().contiguous() for name in self.tuned}
            save_file(rows, folder / TRAINED_FILE)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self.args.output_dir)
        with failing_disk_in_one_line(folder / f"checkpoint-{self.state.global_step}", folder):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                (folder / f"checkpoint-{self.state.global_step}" / COMPLETE).touch()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_trained_rows(self.tuned, Path(resume_from_checkpoint))


@contextmanager
def failing_disk_in_one_line(written: Path, checkpoints: Path) -> Iterator[None]:
    """Turn the errors of writing `written` into one OSError that says where the training goes on.

    Torch and safetensors have errors of their own where the disk is full.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        last = last_complete_checkpoint(checkpoints)
        raise OSError(
            f"{written}: could not be written ({in_one_line(error)}); make room and give the same command "
            f"again, it goes on from {last or 'the start'}"
        ) from error


def load_trained_rows(tuned: dict[str, TunedRows], folder: Path) -> None:
    """Take over the rows that a checkpoint folder holds."""
    saved = load_file(folder / TRAINED_FILE)
    with torch.no_grad():
        for name, part in tuned.items():
            part.rows.copy_(saved[name])


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint of the most steps; None without one."""
    complete = (path for path in own_checkpoints(folder) if (path / COMPLETE).exists())
    return max(complete, key=steps_of, default=None)


def own_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints that Trainer wrote into a folder, by their names; a sync program's copy is none of them."""
    return [path for path in folder.glob("checkpoint-*") if re.fullmatch("checkpoint-[1-9][0-9]*", path.name)]


def drop_checkpoints(folder: Path) -> None:
    """Delete the checkpoints in a folder, and it too if nothing else is left in it."""
    for path in own_checkpoints(folder):
        shutil.rmtree(path)
    with suppress(OSError):
        folder.rmdir()


def steps_of(checkpoint: Path) -> int:
    """How many steps were done, by the checkpoint's name."""
    return int(checkpoint.name.split("-")[1])


def train(trainer: TargetedTrainer) -> None:
    """Train to the end, from the last complete checkpoint on if there is one."""
    folder = Path(trainer.args.output_dir)
    last = last_complete_checkpoint(folder)
    if trainer.is_world_process_zero():
        for path in own_checkpoints(folder):
            if not (path / COMPLETE).exists():
                shutil.rmtree(path)
        done = steps_of(last) if last else 0
        rows = trainer.log_file.read_text(encoding="utf-8").splitlines() if trainer.log_file.exists() else []
        kept = [row for row in rows if row.endswith("}") and json.loads(row)["step"] <= done]
        write_text(trainer.log_file, "".join(f"{row}\n" for row in kept))
    trainer.accelerator.wait_for_everyone()
    try:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    finally:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, ProgressCallback) and callback.training_bar is not None:
                callback.training_bar.close()  # else an error would stand in the bar's line


def training_arguments(folder: Path, **settings: Any) -> TrainingArguments:
    """The arguments that make Trainer do this and nothing else; `settings` are what the command line decides."""
    on_cpu = not torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(folder),
        lr_scheduler_type="cosine",
        weight_decay=0.0,
        optim="adamw_torch",
        max_grad_norm=1.0,
        remove_unused_columns=False,
        save_strategy="steps",
        save_total_limit=2,
        report_to=[],
        ddp_find_unused_parameters=False,
        disable_tqdm=False,
        use_cpu=on_cpu,
        ddp_backend="gloo" if on_cpu and processes().count > 1 else None,
        logging_nan_inf_filter=False,
        **settings,
    )
