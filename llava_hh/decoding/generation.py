"""Batched answers of a method about images, within memory; the blocks of a run, their decoding time and decisions."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from llava_hh.attention.interventions import Decisions
from llava_hh.attention.trace import add_decisions
from llava_hh.decoding.method import Answer, Answers, Method
from llava_hh.files.images import image_path, load_image
from llava_hh.files.memory import in_parts
from llava_hh.files.nonfinite import NotFinite, refuse_infinite, refusing_infinite
from llava_hh.files.progress import say
from llava_hh.heads import Head
from llava_hh.models.lvlm import Lvlm
from llava_hh.runs.blocks import Run


def answer_samples(
    lvlm: Lvlm,
    samples: Sequence[dict],
    images: Sequence[Image.Image],
    method: Method,
    prompt: str | Sequence[str],
    max_new_tokens: int,
) -> Answers:
    """Ask about every image, in one batch.

    Args:
        prompt: one question for all, or one for each.
    Raises:
        ValueError: NaN or infinite logits; names the sample and the first layer that has such an output.
    """
    prompts = [prompt] * len(images) if isinstance(prompt, str) else list(prompt)
    ids = [sample["image_id"] for sample in samples]

    def answer(rows: slice) -> Answers:
        batch = lvlm.encode(images[rows], prompts[rows], sample_ids=ids[rows])
        try:
            begun = time.perf_counter()
            answers = method.answer(lvlm, batch, max_new_tokens)  # lists of ints, so a GPU is done with them
            return answers._replace(seconds=time.perf_counter() - begun)
        except ValueError as error:
            if "do not match" not in str(error):  # transformers' words for image tokens and features that do not fit
                raise
            where = lvlm.model.config._name_or_path
            raise ValueError(f"{where}: its processor's files do not fit its weights ({error})") from error

    with suppress(NotFinite), refusing_infinite(lvlm.model):
        return answer(slice(None))
    alone = [(image_id, partial(answer, slice(row, row + 1))) for row, image_id in enumerate(ids)]
    refuse_infinite(lvlm.model, lvlm.decoder_layers, alone)


def answer_within_memory(
    lvlm: Lvlm,
    samples: Sequence[dict],
    load: Callable[[dict], Image.Image | None],
    method: Method,
    prompts: Sequence[str],
    max_new_tokens: int,
) -> tuple[list[Answer | None], dict[str, Any]]:
    """`answer_samples`, in batches of half, a quarter, ... of the samples where memory has no room for all at once.

    Each block begins with all of its samples, so that its answers don't depend on the blocks before it.

    Args:
        load: the image of a sample, None if it is left out.
    Returns: the answers, None where the image is left out; and what `Run.finish_block` keeps of them: `seconds` of all
        batches, `fired` (layer, head, how often it fired, how often it decided), and `sub_batch`, the size of the
        batches, None if all samples fitted into one.
    """

    def answer(part: Sequence[int]) -> tuple[Sequence[int], Answers]:
        images = {index: image for index in part if (image := load(samples[index])) is not None}
        if not images:
            return [], Answers([], {})
        kept, asked = [samples[index] for index in images], [prompts[index] for index in images]
        return list(images), answer_samples(lvlm, kept, list(images.values()), method, asked, max_new_tokens)

    parts, size = in_parts(answer, range(len(samples)))
    by_index = {index: one for kept, part in parts for index, one in zip(kept, part.answers, strict=True)}
    fired: dict[Head, Decisions] = {}
    for _, part in parts:
        add_decisions(fired, part.fired)
    seconds = sum(part.seconds for _, part in parts)
    spent = {"seconds": seconds, "fired": [[*head, *counts] for head, counts in fired.items()], "sub_batch": size}
    return [by_index.get(index) for index in range(len(samples))], spent


def seconds_per_token(run: Run) -> list[float | None]:
    """Decoding time of each block that caption_images has finished, over its generated tokens, end tokens among them.

    None where the time was not kept or nothing was generated.
    """
    times = []
    for block in run.finished_blocks():
        n_tokens = sum(len(row["token_ids"]) + (row["finish_reason"] == "stop") for row in block["rows"])
        times.append(block["seconds"] / n_tokens if n_tokens and "seconds" in block else None)
    return times


def firing_rates(blocks: Iterable[dict]) -> dict[str, dict]:
    """How often heads fired in a run: by head, `fired` and `decided` (counts) and `rate` (a fraction).

    Empty where a block was made of more samples than are asked for, since it counts over all of them.
    """
    counts: dict[Head, Decisions] = {}
    for block in blocks:
        if block.get("is_cut"):
            return {}
        for layer, head, *decisions in block.get("fired", ()):
            add_decisions(counts, {Head(layer, head): Decisions(*decisions)})
    return {
        str(head): {"fired": fired, "decided": decided, "rate": round(fired / decided, 6) if decided else 0.0}
        for head, (fired, decided) in counts.items()
    }


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
    method: Method,
    label: str = "captions",
    skip_bad: bool = False,
) -> list[dict]:
    """Caption samples block by block and write captions.jsonl, one row per image, in the order of `samples`.

    Args:
        samples: `image_id` and `file_name` each; their other entries are copied into their rows.
        skip_bad: leave out an image that cannot be read, instead of stopping there.
    Returns: the rows. Their text is what `Lvlm.answer_text` makes of token_ids.
    """
    told: set[str] = set()

    def image_of(sample: dict) -> Path:
        return image_path(image_folder, sample["file_name"])

    def load(sample: dict) -> Image.Image | None:
        try:
            return load_image(image_of(sample))
        except ValueError as error:
            if not skip_bad:
                raise
            if str(error) not in told:  # it is read again where memory runs out
                told.add(str(error))
                say(f"skipped: {error}")
            return None

    def row_of(sample: dict, answer: Answer) -> dict:
        return {
            "question_id": sample["image_id"],
            "image_id": sample["image_id"],
            "image": sample["file_name"],
            "prompt": prompt,
            "text": lvlm.answer_text(answer.token_ids),
            "token_ids": answer.token_ids,
            "finish_reason": answer.finish_reason,
            "model_id": model_id,
            **{key: value for key, value in sample.items() if key not in ("image_id", "file_name")},
        }

    for number, block in run.blocks(samples, batch_size, label, image_of):
        answers, spent = answer_within_memory(lvlm, block, load, method, [prompt] * len(block), max_new_tokens)
        rows = [row_of(sample, answer) for sample, answer in zip(block, answers, strict=True) if answer is not None]
        rows_of = [int(answer is not None) for answer in answers] if None in answers else None
        run.finish_block(number, block, rows, rows_of=rows_of, **spent)
    run.write_rows("captions.jsonl")
    return run.finished_rows()
