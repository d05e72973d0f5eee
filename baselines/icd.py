"""ICD, instruction contrastive decoding: logits less those under a role that misleads."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from llava_hh.baselines.sampling import next_token
from llava_hh.baselines.settings import FLAG, SHARE, CheckedSettings, Rule, at_least, whole
from llava_hh.baselines.stepping import Stepper, TokenIds, decode_rows
from llava_hh.baselines.twins import asked_twice, below_cut, contrast
from llava_hh.decoding.method import NO_EDITS, CannotDecode, Edits
from llava_hh.models.chat import Asked
from llava_hh.models.lvlm import Batch, Lvlm

ROLE = "You are a confused objects detector to provide a fuzzy overview or impression of the image."
TEXT = Rule("a text", lambda value: isinstance(value, str) and bool(value.strip()))


@dataclass(frozen=True)
class IcdSettings(CheckedSettings):
    """Settings of ICD.

    Args:
        alpha: weight of the contrast; 0 is greedy decoding.
        beta: tokens less likely than `beta` times the most likely one are out.
        role: the text that misleads.
        formula: "code", (1 + alpha) z - alpha z' of the logits z and the twin's z', or "paper", z - alpha z'.
        place: "system", where the twin's system text stands, or "question", before the question; so it is too where the
            model's format has no system text.
        do_sample, seed: draw the token, by the sample's id, as the code does, or take the best one.

    Raises:
        ValueError: a field that is not allowed.
    """

    alpha: Annotated[float, at_least(0)] = 1.0
    beta: Annotated[float, SHARE] = 0.1
    role: Annotated[str, TEXT] = ROLE
    place: Literal["system", "question"] = "system"
    formula: Literal["code", "paper"] = "code"
    do_sample: Annotated[bool, FLAG] = True
    seed: Annotated[int, whole()] = 42


PRESETS = {"icd": IcdSettings(), "icd_paper": IcdSettings(formula="paper")}


def decode(lvlm: Lvlm, batch: Batch, settings: IcdSettings, max_new_tokens: int, edits: Edits = NO_EDITS) -> TokenIds:
    """Decode by ICD; a row and its twin, who is asked under the role, go through the model in the same forward.

    Returns: the token ids of each row, without its end token.
    Raises:
        CannotDecode: a batch of more than the question, such as one with answers.
    Source: Wang et al., "Mitigating Hallucinations in Large Vision-Language Models with Instruction Contrastive
        Decoding" (ACL 2024 Findings), and its code: alpha 1, beta 0.1, sampled.
    Differs: the code knows LLaVA's system prompt and InstructBLIP; AllPath's code has the role before the question.
    """
    if edits.is_of_batch:
        raise CannotDecode("ICD asks the questions anew, and the method under it is made for their first batch")
    in_system = settings.place == "system" and takes_system(lvlm, settings.role)
    misled = [Asked(text, settings.role) if in_system else f"{settings.role} {text}" for text in batch.prompts]
    both, take = asked_twice(lvlm, batch, batch.images, misled, "ICD"), next_token(batch, settings)

    def choose(logits: Tensor) -> Tensor:
        shown, twin = logits[::2], logits[1::2]
        if settings.formula == "code":
            return take(contrast(shown, twin, settings.alpha, settings.beta))
        return take((shown - settings.alpha * twin).masked_fill(below_cut(shown, settings.beta), -torch.inf))

    with edits.open(lvlm.model, both.image_mask, torch.arange(len(both.prompts)) % 2 == 0):
        return decode_rows(Stepper(lvlm.model, both.inputs), choose, max_new_tokens, copies=2)


def takes_system(lvlm: Lvlm, role: str) -> bool:
    """Whether the role can stand as the system text of a question: the format has one, and the family writes it."""
    ask = getattr(lvlm.family, "takes_system", None)
    if ask is None or not ask(lvlm.processor):
        return False
    plain, misled = (lvlm.family.encode(lvlm.processor, [None], [text])[0] for text in ("?", Asked("?", role)))
    return plain != misled
