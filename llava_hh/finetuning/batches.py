"""What a training step is given: the order of the samples, and batches of conversations with their images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler
from tqdm import tqdm
from transformers.trainer_pt_utils import get_length_grouped_indices

from llava_hh.data.instruct import InstructionData
from llava_hh.files.images import image_path, load_image
from llava_hh.finetuning.losses import IGNORED
from llava_hh.models.lvlm import Lvlm

STAND_IN = (("?", "!"),)


class Places(Dataset):
    """A data set whose items are their own numbers; `collate` reads the samples of a batch."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: int) -> int:
        return place


@dataclass(frozen=True)
class Collator:
    """Reads conversations and their images and makes a batch of them.

    A batch says how many samples it lacks for a bad image (`n_bad_images`), and of how many no token of an answer is
    within `max_length` (`n_unanswered`). Where no sample is left, a row without an answer stands in for them.

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

    def __call__(self, places: Sequence[int]) -> dict[str, Any]:
        samples, images = [], []
        for sample in map(self.data.__getitem__, places):
            try:
                images.append(load_image(image_path(self.image_folder, sample.image)) if sample.image else None)
                samples.append(sample)
            except ValueError as error:
                problem = f"{self.data.path}: sample {sample.sample_id}: {error}"
                if not self.skip_bad:
                    raise ValueError(problem) from None
                tqdm.write(f"skipped: {problem}")
        batch, labels = self.lvlm.encode_conversations(
            images or [None],
            [sample.turns for sample in samples] or [STAND_IN],
            self.max_length,
            sample_ids=[sample.sample_id for sample in samples] or ["none"],
        )
        if not samples:
            labels.fill_(IGNORED)
        n_answered = int((labels != IGNORED).any(1).sum())
        return {
            "inputs": batch.inputs,
            "image_mask": batch.image_mask,
            "labels": labels,
            "sample_ids": batch.sample_ids,
            "n_bad_images": len(places) - len(samples),
            "n_unanswered": len(samples) - n_answered,
        }


def refuse_nothing_to_learn(collate: Collator, order: Sequence[int], from_images: bool) -> None:
    """See that a training has a sample with an answer, or tokens of it, that is not cut off.

    Args:
        from_images: of a sample with an image, as the attention loss needs it.
    Raises:
        ValueError: there is none; names the flag.
    """
    for place in dict.fromkeys(order):
        if collate.data.has_image[place] or not from_images:
            batch = collate([place])
            if batch["n_bad_images"] + batch["n_unanswered"] == 0:
                return
    of = "with an image that can be read" if from_images else "that can be read"
    raise ValueError(
        f"{collate.data.path}: no sample {of} has an answer within --max-length {collate.max_length} tokens"
    )


def sample_order(lengths: Sequence[int], has_image: Sequence[bool], batch_size: int, n_batches: int, seed: int):
    """The samples of all batches of a training, one after the other: each batch of one kind and of similar lengths.

    Epochs follow each other, each shuffled anew. Where a kind doesn't fill its last batch, the rest of both kinds make
    mixed batches; what then remains, less than a batch, is left out of the epoch.

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
            own = [place for place in range(len(lengths)) if bool(has_image[place]) == kind]
            if own:
                grouped = get_length_grouped_indices([lengths[place] for place in own], batch_size, generator=generator)
                places = [own[index] for index in grouped]
                full = len(places) // batch_size * batch_size
                batches += [places[start : start + batch_size] for start in range(0, full, batch_size)]
                rest += places[full:]
        full = len(rest) // batch_size * batch_size
        batches += [rest[start : start + batch_size] for start in range(0, full, batch_size)]
        for number in torch.randperm(len(batches), generator=generator).tolist():
            order += batches[number]
    return order[: n_batches * batch_size]


class FixedOrder(Sampler):
    """Gives the samples of a training in an order that was made beforehand."""

    def __init__(self, order: Sequence[int]) -> None:
        self.order = order

    def __iter__(self):
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)
