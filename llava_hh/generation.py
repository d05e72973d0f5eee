"""Batched captioning of images, greedy or under any interventions or decoder; and what a decoder is."""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from llava_hh.blocks import Run
from llava_hh.data.images import image_path, load_image
from llava_hh.finite import NotFinite, refuse_infinite, refusing_infinite
from llava_hh.hooks import intervene
from llava_hh.identity import has_config, identify
from llava_hh.interventions import Intervention
from llava_hh.memory import in_parts
from llava_hh.models.lvlm import Batch, Lvlm

Interventions = Sequence[Intervention] | Callable[[Sequence[dict]], Sequence[Intervention]]


@dataclass(frozen=True)
class Answer:
    """Generated token ids without the end token; finish_reason is "stop" (end token) or "length"."""

    token_ids: list[int]
    finish_reason: str


@dataclass(frozen=True)
class DecodeContext:
    """What some decoders need beyond the model's inputs; one entry per row.

    sample_ids: what random draws are seeded by, next to a setting, so that batching doesn't change them.
    encode: from images, prompts and responses to a batch, as `Lvlm.encode`.
    image_pixels: the family's, where it has that (`Family`): which pixels belong to which image.
    """

    processor: ProcessorMixin
    images: Sequence[Image.Image | None]
    prompts: Sequence[str]
    sample_ids: Sequence
    encode: Callable[..., Batch] | None = None
    image_pixels: Callable[..., tuple[Tensor, list[int]]] | None = None


class CannotDecode(NotImplementedError):
    """A model of a kind that a decoder cannot have; a comparison leaves the decoder out and says why."""


class Decoder(Protocol):
    """A way to decode a batch, such as `baselines.vcd.decode`.

    Args:
        inputs: what model.forward takes, left-padded; `image_mask`: (row, position) bool, as in `Batch`.
        settings: the decoder's own frozen dataclass.
    Returns: the token ids of each row, without the end token; a row of fewer than `max_new_tokens` ids stopped by
        itself, others were cut off. End tokens and suppressed ids are those of model.generation_config.
    Raises:
        CannotDecode: a model of a kind that the decoder cannot have; on the first token at the latest.
    """

    def __call__(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Tensor],
        image_mask: Tensor,
        settings: Any,
        max_new_tokens: int,
        context: DecodeContext | None = None,
    ) -> list[list[int]]: ...


@dataclass(frozen=True)
class Decoding:
    """A decoder with its settings (a frozen dataclass), under the name that result folders and tables give it."""

    name: str
    decode: Decoder
    settings: Any

    def describe(self) -> dict:
        """The name and every setting, for run.json; checkpoints that it works with by their content."""
        tools = getattr(self.settings, "tools", dict)()
        known = {name: identify(path) for name, path in tools.items() if path.is_file() or has_config(path)}
        return {"name": self.name, **asdict(self.settings), **known}


Method = Interventions | Decoding  # greedily under interventions, or by a decoder


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


def decode_answers(
    lvlm: Lvlm, batch: Batch, prompts: Sequence[str], decode: Decoder, settings: Any, max_new_tokens: int
) -> list[Answer]:
    """Decode a batch by a decoder; `prompts` are the questions that the batch was encoded from."""
    pixels = getattr(lvlm.family, "image_pixels", None)
    context = DecodeContext(lvlm.processor, batch.images, prompts, batch.sample_ids, lvlm.encode, pixels)
    rows = decode(lvlm.model, batch.inputs, batch.image_mask, settings, max_new_tokens, context)
    return [Answer(ids, "stop" if len(ids) < max_new_tokens else "length") for ids in rows]


def answer_samples(
    lvlm: Lvlm,
    samples: Sequence[dict],
    images: Sequence[Image.Image],
    method: Method,
    prompt: str | Sequence[str],
    max_new_tokens: int,
) -> tuple[list[Answer], float]:
    """Ask about every image, in one batch; also the seconds that decoding took, prefill included.

    Args:
        prompt: one question for all, or one for each.
    Raises:
        ValueError: NaN or infinite logits; names the sample and the first layer that has such an output.
    """
    prompts = [prompt] * len(images) if isinstance(prompt, str) else list(prompt)
    try:
        with refusing_infinite(lvlm.model):
            return _answer(lvlm, samples, images, method, prompts, max_new_tokens)
    except NotFinite:
        pass
    alone = [
        (sample["image_id"], partial(_answer, lvlm, [sample], [image], method, [question], max_new_tokens))
        for sample, image, question in zip(samples, images, prompts, strict=True)
    ]
    refuse_infinite(lvlm.model, lvlm.decoder_layers, alone)


def answer_within_memory(
    lvlm: Lvlm,
    samples: Sequence[dict],
    load: Callable[[dict], Image.Image | None],
    method: Method,
    prompts: Sequence[str],
    max_new_tokens: int,
) -> tuple[list[Answer | None], float, int | None]:
    """`answer_samples`, in batches of half, a quarter, ... of the samples where memory has no room for all at once.

    Each block begins with all of its samples, so that its answers don't depend on the blocks before it.

    Args:
        load: the image of a sample, None if it is left out.
    Returns: the answers, None where the image is left out; the seconds; and the size of the batches, None if it is
        that of all.
    """

    def answer(part: Sequence[int]) -> tuple[dict[int, Answer], float]:
        images = {place: image for place in part if (image := load(samples[place])) is not None}
        if not images:
            return {}, 0.0
        own, asked = [samples[place] for place in images], [prompts[place] for place in images]
        answers, seconds = answer_samples(lvlm, own, list(images.values()), method, asked, max_new_tokens)
        return dict(zip(images, answers, strict=True)), seconds

    parts, size = in_parts(answer, range(len(samples)))
    found = {place: answer for answers, _ in parts for place, answer in answers.items()}
    return [found.get(place) for place in range(len(samples))], sum(seconds for _, seconds in parts), size


def _answer(
    lvlm: Lvlm,
    samples: Sequence[dict],
    images: Sequence[Image.Image],
    method: Method,
    prompts: list[str],
    max_new_tokens: int,
) -> tuple[list[Answer], float]:
    batch = lvlm.encode(images, prompts, sample_ids=[sample["image_id"] for sample in samples])
    begun = time.perf_counter()
    try:
        if isinstance(method, Decoding):
            answers = decode_answers(lvlm, batch, prompts, method.decode, method.settings, max_new_tokens)
        else:
            answers = generate_greedily(lvlm, batch, max_new_tokens, method(samples) if callable(method) else method)
    except ValueError as error:
        if "do not match" not in str(error):  # what transformers says of image tokens and features
            raise
        where = lvlm.model.config._name_or_path
        raise ValueError(f"{where}: its processor's files do not fit its weights ({error})") from error
    return answers, time.perf_counter() - begun  # answers are lists of ints, so a GPU is done with them


def seconds_per_token(run: Run) -> list[float | None]:
    """Decoding time of each block that caption_images has finished, over its generated tokens, end tokens among them.

    None where the time was not kept or nothing was generated.
    """
    found = []
    for block in run.finished_blocks():
        n_tokens = sum(len(row["token_ids"]) + (row["finish_reason"] == "stop") for row in block["rows"])
        found.append(block["seconds"] / n_tokens if n_tokens and "seconds" in block else None)
    return found


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
    method: Method = (),
    label: str = "captions",
    skip_bad: bool = False,
) -> list[dict]:
    """Caption samples block by block and write captions.jsonl, one row per image, in the order of `samples`.

    Args:
        samples: `image_id` and `file_name` each; what else they hold stands in their rows.
        method: interventions, or a function that makes them for the samples of a batch, under greedy decoding; or a
            decoder.
        skip_bad: leave out an image that cannot be read, instead of stopping there.
    Returns: the rows. Their text is what `Lvlm.answer_text` makes of token_ids.
    """

    def image_of(sample: dict) -> Path:
        return image_path(image_folder, sample["file_name"])

    told: set[str] = set()

    def load(sample: dict) -> Image.Image | None:
        try:
            return load_image(image_of(sample))
        except ValueError as error:
            if not skip_bad:
                raise
            if str(error) not in told:  # it is read again where memory runs out
                told.add(str(error))
                tqdm.write(f"skipped: {error}")
            return None

    for number, block in run.blocks(samples, batch_size, label, image_of):
        prompts = [prompt] * len(block)
        answers, seconds, sub_batch = answer_within_memory(lvlm, block, load, method, prompts, max_new_tokens)
        rows = [
            {
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
            for sample, answer in zip(block, answers, strict=True)
            if answer is not None
        ]
        rows_of = [int(answer is not None) for answer in answers] if None in answers else None
        run.finish_block(number, block, rows, seconds=seconds, sub_batch=sub_batch, rows_of=rows_of)
    run.write_rows("captions.jsonl")
    return run.finished_rows()
