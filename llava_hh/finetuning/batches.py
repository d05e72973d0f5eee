"""What a training step is given: the order of the samples, and batches of conversations with their images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_pt_utils import get_length_grouped_indices

from llava_hh.data.instruct import InstructionData
from llava_hh.files.images import image_path, load_image
from llava_hh.files.progress import say
from llava_hh.finetuning.losses import IGNORED
from llava_hh.models.lvlm import Lvlm

STAND_IN = (("?", "!"),)


@dataclass(frozen=True)
class Collator:
    """Reads the conversations of some indices, with their images, and makes a batch of them.

    A batch counts the samples that it lacks because of a bad image (`n_bad_images`), and those with no answer token
    within `max_length` (`n_unanswered`). Where no sample is left, the batch is one row without an answer.

    Args:
        skip_bad: leave out samples with an image that cannot be read, and say so.
    Raises:
        ValueError: an image that cannot be read, without `skip_bad`; the line names the sample.
    """

    lvlm: Lvlm
    data: InstructionData
    image_folder: Path
    max_length: int
    skip_bad: bool = False

    def __call__(self, indices: Sequence[int]) -> dict[str, Any]:
        samples, images = [], []
        for sample in map(self.data.__getitem__, indices):
            try:
                images.append(load_image(image_path(self.image_folder, sample.image)) if sample.image else None)
                samples.append(sample)
            except ValueError as error:
                problem = f"{self.data.path}: sample {sample.sample_id}: {error}"
                if not self.skip_bad:
                    raise ValueError(problem) from None
                say(f"skipped: {problem}")
        turns = [sample.turns for sample in samples] or [STAND_IN]
        sample_ids = [sample.sample_id for sample in samples] or ["none"]
        batch, labels = self.lvlm.encode_conversations(images or [None], turns, self.max_length, sample_ids=sample_ids)
        if not samples:
            labels.fill_(IGNORED)
        left_out = {
            "n_bad_images": len(indices) - len(samples),
            "n_unanswered": len(samples) - int((labels != IGNORED).any(1).sum()),
        }
        given = {"inputs": batch.inputs, "image_mask": batch.image_mask, "sample_ids": batch.sample_ids}
        return {**given, "labels": labels, **left_out}


def refuse_nothing_to_learn(collate: Collator, order: Sequence[int], from_images: bool) -> None:
    """Check that a training has a sample with an answer that is not cut off entirely.

    Args:
        from_images: it has to have an image, which the attention loss needs.
    Raises:
        ValueError: there is none; names the flag.
    """
    for index in dict.fromkeys(order):
        if collate.data.has_image[index] or not from_images:
            batch = collate([index])
            if batch["n_bad_images"] + batch["n_unanswered"] == 0:
                return
    of = "with an image that can be read" if from_images else "that can be read"
    limit = f"within --max-length {collate.max_length} tokens"
    raise ValueError(f"{collate.data.path}: no sample {of} has an answer {limit}")


def sample_order(
    lengths: Sequence[int], has_image: Sequence[bool], batch_size: int, n_batches: int, seed: int
) -> list[int]:
    """Indices of the samples of all batches of a training, one after the other.

    A batch has samples of one kind (with or without image) and of similar lengths. Epochs follow each other, each
    shuffled anew. Samples of both kinds that do not fill a batch make mixed batches; what then remains, less than a
    batch, is left out of the epoch.

    Raises:
        ValueError: fewer samples than a batch.
    Source: LLaVA's length grouping by modality.
    Differs: LLaVA shuffles batches of the whole epoch with the process's generator; ours depends on `seed` alone.
    """
    if len(lengths) < batch_size:
        raise ValueError(f"{len(lengths)} samples do not fill a batch of {batch_size}; lower --batch-size")
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while len(order) < n_batches * batch_size:
        batches, rest = [], []
        for kind in (True, False):
            if alike := [index for index, has in enumerate(has_image) if bool(has) == kind]:
                of_kind = [lengths[index] for index in alike]
                grouped = get_length_grouped_indices(of_kind, batch_size, generator=generator)
                full, left = _full_batches([alike[number] for number in grouped], batch_size)
                batches += full
                rest += left
        batches += _full_batches(rest, batch_size)[0]
        for number in torch.randperm(len(batches), generator=generator).tolist():
            order += batches[number]
    return order[: n_batches * batch_size]


def _full_batches(indices: list[int], size: int) -> tuple[list[list[int]], list[int]]:
    """The batches that indices fill, and the indices that are left."""
    full = len(indices) // size * size
    return [indices[first : first + size] for first in range(0, full, size)], indices[full:]
