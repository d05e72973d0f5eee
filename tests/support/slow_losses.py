"""The loss of captions as a loop: one row at a time, eager maps, one cached step a token."""

import torch

from llava_hh.models.lvlm import Lvlm
from tests.support.eager_edits import eager_edits
from tests.support.tiny import TinyBatch, decode_steps

PROMPT = "describe the dog"


def slow_losses(lvlm: Lvlm, images: list, responses: list[list[int]], edits: list) -> tuple[list, list]:
    """Each row on its own, eager maps, a prefill and one cached step a token; minus log p of token after token."""
    losses, decisions = [], []
    for image, answer in zip(images, responses, strict=True):
        batch = lvlm.encode([image], [PROMPT])
        with eager_edits(lvlm.model, batch.image_mask, edits) as editor:
            tokens = torch.tensor([answer])
            logits = decode_steps(lvlm.model, TinyBatch(batch.inputs, batch.image_mask), len(answer), tokens)[0]
        total = 0.0
        for row, token in zip(logits.double(), answer, strict=True):
            total -= (row[token] - row.exp().sum().log()).item()
        losses.append(total)
        decisions.append((sum(editor.fired.values()), sum(editor.decided.values())))
    return losses, decisions
