"""M3ID: what the image adds to the next word counts more, the longer the answer is."""

import math
from dataclasses import dataclass
from itertools import count
from typing import Annotated, Literal

import torch
from torch import Tensor

from llava_hh.baselines.pai import with_image_free_twins
from llava_hh.baselines.sampling import next_token
from llava_hh.baselines.settings import FLAG, SHARE, CheckedSettings, at_least, optional, whole
from llava_hh.baselines.stepping import Stepper, TokenIds, decode_rows, pad_id
from llava_hh.decoding.method import NO_EDITS, Edits
from llava_hh.models.lvlm import Batch, Lvlm


@dataclass(frozen=True)
class M3idSettings(CheckedSettings):
    """Settings of M3ID.

    Args:
        decay: how fast the image is forgotten: gamma = exp(-decay (t + offset)) at the t-th token of the answer; the
            contrast with the image-free twin has the weight (1 - gamma) / gamma. 0 is greedy decoding.
        offset: tokens that are added to t; 0 for captions.
        unsure: the contrast acts where no token is as likely as this; 1 is always, 0 never.
        scores: what is contrasted: log-probabilities (paper), or logits.
        beta: tokens less likely than this times the most likely one are out; None is off.
        do_sample, seed: draw the token, by the sample's id, instead of taking the best one.

    Raises:
        ValueError: a field that is not allowed.
    """

    decay: Annotated[float, at_least(0)] = 0.02
    offset: Annotated[float, at_least(0)] = 0.0
    unsure: Annotated[float, at_least(0)] = 0.3
    scores: Literal["log_probabilities", "logits"] = "log_probabilities"
    beta: Annotated[float | None, optional(SHARE)] = None
    do_sample: Annotated[bool, FLAG] = False
    seed: Annotated[int, whole()] = 42


PRESETS = {
    "m3id_paper": M3idSettings(),
    "m3id_avisc": M3idSettings(unsure=1.0, scores="logits", beta=0.1, do_sample=True),
}


def decode(lvlm: Lvlm, batch: Batch, settings: M3idSettings, max_new_tokens: int, edits: Edits = NO_EDITS) -> TokenIds:
    """Decode by M3ID; a row and its twin without the image go through the model in the same forward.

    Returns: the token ids of each row, without its end token.
    Raises:
        CannotDecode: a model that reads its image by cross-attention, where there is no image-free twin.
    Source: Favero et al., "Multi-Modal Hallucination Control by Visual Information Grounding" (CVPR 2024): decay 0.02,
        unsure 0.3, offset 0 for captions; it has no code. `m3id_avisc` is the port in AvisC's code.
    """
    inputs, mask = with_image_free_twins(batch.inputs, batch.image_mask, pad_id(lvlm.model))
    steps, take = count(1), next_token(batch, settings)

    def choose(logits: Tensor) -> Tensor:
        return take(grounded(logits[::2], logits[1::2], next(steps), settings))

    with edits.open(lvlm.model, mask, torch.arange(len(mask)) % 2 == 0):
        return decode_rows(Stepper(lvlm.model, inputs), choose, max_new_tokens, copies=2)


def grounded(shown: Tensor, blind: Tensor, step: int, settings: M3idSettings) -> Tensor:
    """Scores of the `step`-th token, from 1, by logits with the image and without, (row, vocabulary) each."""
    likely = shown.log_softmax(-1)
    given, other = (likely, blind.log_softmax(-1)) if settings.scores == "log_probabilities" else (shown, blind)
    weight = math.expm1(settings.decay * (step + settings.offset))  # (1 - gamma) / gamma
    # a suppressed id is -inf in both, and their difference is NaN
    scores = (given + weight * (given - other)).masked_fill(given == -torch.inf, -torch.inf)
    best = likely.amax(-1, keepdim=True)
    scores = torch.where(best < math.log(settings.unsure), scores, given) if 0 < settings.unsure < 1 else scores
    scores = given if settings.unsure == 0 else scores
    return scores if settings.beta is None else scores.masked_fill(likely < best + math.log(settings.beta), -torch.inf)
