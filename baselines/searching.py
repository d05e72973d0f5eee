"""Beam search and sampling, which tables of methods have beside greedy decoding."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from llava_hh.baselines.sampling import draw_tokens, sample_generator, warped
from llava_hh.baselines.settings import POSITIVE, SHARE, CheckedSettings, optional, whole
from llava_hh.baselines.stepping import Stepper, TokenIds, decode_rows
from llava_hh.models.lvlm import Batch, Lvlm


@dataclass(frozen=True)
class BeamSettings(CheckedSettings):
    """Settings of beam search: `n` beams; 1 is greedy decoding.

    Raises:
        ValueError: a field that is not allowed.
    """

    n: Annotated[int, whole(1)] = 5


@dataclass(frozen=True)
class SampleSettings(CheckedSettings):
    """Settings of sampling: what shapes the distribution (None is off), and a seed, which counts with the sample's id.

    Raises:
        ValueError: a field that is not allowed.
    """

    temperature: Annotated[float, POSITIVE] = 1.0
    top_k: Annotated[int | None, optional(whole(1))] = None
    top_p: Annotated[float | None, optional(SHARE)] = None
    seed: Annotated[int, whole()] = 42


@torch.no_grad()
def search(lvlm: Lvlm, batch: Batch, settings: BeamSettings, max_new_tokens: int) -> TokenIds:
    """The best answer by the sum of its log-probabilities over its length, as transformers searches it.

    Returns: the token ids of each row, without its end token.
    """
    prompt = batch.image_mask.shape[1] if "input_ids" in batch.inputs else 0
    found = lvlm.model.generate(
        **batch.inputs, max_new_tokens=max_new_tokens, num_beams=settings.n, do_sample=False, early_stopping=False
    )
    answers = []
    for ids in found[:, prompt:].tolist():
        answers.append(ids[: next((place for place, token in enumerate(ids) if token in lvlm.end_token_ids), None)])
    return answers


def sample(lvlm: Lvlm, batch: Batch, settings: SampleSettings, max_new_tokens: int) -> TokenIds:
    """Draw every token; a sample's draws are its own, so that the batch does not matter.

    Returns: the token ids of each row, without its end token.
    """
    generators = [sample_generator(settings.seed, sample_id, "tokens") for sample_id in batch.sample_ids]

    def choose(logits: Tensor) -> Tensor:
        return draw_tokens(warped(logits, settings.temperature, settings.top_k, settings.top_p), generators)

    return decode_rows(Stepper(lvlm.model, batch.inputs), choose, max_new_tokens)
