"""Greedy decoding by the loop of the other decoders: all of them are greedy when their settings do nothing."""

from dataclasses import dataclass

from llava_hh.baselines.stepping import Stepper, TokenIds, decode_rows
from llava_hh.models.lvlm import Batch, Lvlm


@dataclass(frozen=True)
class GreedySettings:
    """Nothing to set."""


PRESETS = {"greedy": GreedySettings()}


def decode(lvlm: Lvlm, batch: Batch, settings: GreedySettings, max_new_tokens: int) -> TokenIds:
    """The most likely token of every step; token by token what `model.generate(do_sample=False)` gives.

    Returns: the token ids of each row, without its end token.
    """
    return decode_rows(Stepper(lvlm.model, batch.inputs), lambda logits: logits.argmax(-1), max_new_tokens)
