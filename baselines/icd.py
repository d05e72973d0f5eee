"""ICD, instruction contrastive decoding: logits less those under a role that misleads."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from llava_hh.baselines.sampling import draw_tokens, sample_generator
from llava_hh.baselines.settings import FLAG, SHARE, CheckedSettings, Rule, at_least, whole
from llava_hh.baselines.stepping import Stepper, TokenIds, decode_rows
from llava_hh.baselines.twins import contrast
from llava_hh.decoding.method import NO_EDITS, CannotDecode, Edits
from llava_hh.models.lvlm import Batch, Lvlm

ROLE = "You are a confused objects detector to provide a fuzzy overview or impression of the image."
TEXT = Rule("a text", lambda value: isinstance(value, str) and bool(value.strip()))


@dataclass(frozen=True)
class IcdSettings(CheckedSettings):
    """Settings of ICD.

    Args:
        alpha: weight of the contrast; 0 is greedy decoding.
        beta: tokens less likely than `beta` times the most likely one are out.
        role: what stands before the twin's question.
        do_sample, seed: draw the token, by the sample's id, as the code does, or take the best one.

    Raises:
        ValueError: a field that is not allowed.
    """

    alpha: Annotated[float, at_least(0)] = 1.0
    beta: Annotated[float, SHARE] = 0.1
    role: Annotated[str, TEXT] = ROLE
    do_sample: Annotated[bool, FLAG] = True
    seed: Annotated[int, whole()] = 42


PRESETS = {"icd": IcdSettings()}


def decode(lvlm: Lvlm, batch: Batch, settings: IcdSettings, max_new_tokens: int, edits: Edits = NO_EDITS) -> TokenIds:
    """Decode by ICD; a row and its twin, whose question follows the role, go through the model in the same forward.

    Returns: the token ids of each row, without its end token.
    Raises:
        CannotDecode: a batch of more than the question, such as one with answers.
    Source: Wang et al., "Mitigating Hallucinations in Large Vision-Language Models with Instruction Contrastive
        Decoding" (ACL 2024 Findings), and its code: alpha 1, beta 0.1, sampled.
    Differs: the code puts the role in the place of LLaVA's system prompt, which few families have; ours stands before
        the question, as AllPath's code has it.
    """
    if set(batch.response_start) != {batch.image_mask.shape[1]}:
        raise CannotDecode("ICD asks the questions of a batch anew, which has answers already")
    if edits.is_of_batch:
        raise CannotDecode("ICD asks the questions anew, and the method under it is made for their first batch")
    images = [image for image in batch.images for _ in range(2)]
    asked = [text for prompt in batch.prompts for text in (prompt, f"{settings.role} {prompt}")]
    both = lvlm.encode(images, asked, sample_ids=[sample for sample in batch.sample_ids for _ in range(2)])
    generators = [sample_generator(settings.seed, sample_id, "tokens") for sample_id in batch.sample_ids]

    def choose(logits: Tensor) -> Tensor:
        scores = contrast(logits[::2], logits[1::2], settings.alpha, settings.beta)
        return draw_tokens(scores, generators) if settings.do_sample else scores.argmax(-1)

    with edits.open(lvlm.model, both.image_mask, torch.arange(len(asked)) % 2 == 0):
        return decode_rows(Stepper(lvlm.model, both.inputs), choose, max_new_tokens, copies=2)
