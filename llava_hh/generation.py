"""Batched captioning of images, greedy or under any interventions."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError

from llava_hh.hooks import intervene
from llava_hh.interventions import Intervention
from llava_hh.models.lvlm import Batch, Lvlm
from llava_hh.runs import Run


@dataclass(frozen=True)
class Answer:
    """Generated token ids without the end token; finish_reason is "stop" (end token) or "length"."""

    token_ids: list[int]
    finish_reason: str


def load_image(path: Path) -> Image.Image:
    """Read an image as RGB; one-line errors name the file."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not an image") from None


@torch.no_grad()
def generate_greedily(
    lvlm: Lvlm, batch: Batch, max_new_tokens: int, interventions: Sequence[Intervention] = ()
) -> list[Answer]:
    """Decode a batch greedily; interventions act in prefill and in every cached step."""
    with intervene(lvlm.model, batch.image_mask, interventions) if interventions else nullcontext():
        sequences = lvlm.model.generate(**batch.inputs, max_new_tokens=max_new_tokens, do_sample=False)
    answers = []
    for ids in sequences[:, batch.inputs["input_ids"].shape[1] :].tolist():
        end = next((place for place, token in enumerate(ids) if token in lvlm.end_token_ids), None)
        answers.append(Answer(ids[:end], "length" if end is None else "stop"))
    return answers


def caption_images(
    lvlm: Lvlm,
    samples: Sequence[dict],
    image_folder: Path,
    run: Run,
    *,
    prompt: str,
    model_id: str,
    max_new_tokens: int,
    batch_size: int,
    interventions: Sequence[Intervention] = (),
    label: str = "captions",
    skip_bad: bool = False,
) -> list[dict]:
    """Caption samples block by block and write captions.jsonl, one row per image, in the order of `samples`.

    Args:
        samples: `image_id` and `file_name` each.
        skip_bad: leave out an image that cannot be read, instead of stopping there.
    Returns: the rows. Their text is the decoded token_ids without outer blanks.
    """
    for number, block in run.blocks(samples, batch_size, label):
        images, readable = [], []
        for sample in block:
            try:
                images.append(load_image(image_folder / sample["file_name"]))
                readable.append(sample)
            except (OSError, ValueError) as error:
                if not skip_bad:
                    raise
                print(f"skipped: {error}")
        answers = []
        if readable:
            batch = lvlm.encode(images, [prompt] * len(images), sample_ids=[sample["image_id"] for sample in readable])
            answers = generate_greedily(lvlm, batch, max_new_tokens, interventions)
        rows = [
            {
                "question_id": sample["image_id"],
                "image_id": sample["image_id"],
                "image": sample["file_name"],
                "prompt": prompt,
                "text": lvlm.tokenizer.decode(answer.token_ids, skip_special_tokens=True).strip(),
                "token_ids": answer.token_ids,
                "finish_reason": answer.finish_reason,
                "model_id": model_id,
            }
            for sample, answer in zip(readable, answers, strict=True)
        ]
        run.finish_block(number, block, rows)
    run.drop_blocks_after(-(-len(samples) // batch_size))
    run.write_rows("captions.jsonl")
    return run.finished_rows()
