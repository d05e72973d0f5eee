"""DeCo, dynamic correction decoding: the layer that is surest of a plausible word has a say in the choice."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from llava_hh.attention.modules import decoder_layers
from llava_hh.baselines.lens import RANGE, final_norm, layers_of
from llava_hh.baselines.settings import SHARE, CheckedSettings, at_least, whole
from llava_hh.baselines.stepping import Stepper, TokenIds, decode_rows
from llava_hh.models.lvlm import Batch, Lvlm

VOTING = (20, 28)  # of the 32 hidden_states before the last, both included


@dataclass(frozen=True)
class DecoSettings(CheckedSettings):
    """Settings of DeCo.

    Args:
        alpha: weight of the earlier layer's logits, times its own certainty; 0 is greedy decoding.
        top_p, top_k: plausible tokens are the most likely ones up to this probability, and at most so many.
        layers: the first and the last of hidden_states to choose from, j being the output of decoder layer j - 1. None
            is 20 to 28 of 32 layers, and of others the same share: the first rounded up, the last down.

    Raises:
        ValueError: a field that is not allowed.
    """

    alpha: Annotated[float, at_least(0)] = 0.6
    top_p: Annotated[float, SHARE] = 0.9
    top_k: Annotated[int, whole(1)] = 20
    layers: Annotated[tuple[int, int] | None, RANGE] = None


PRESETS = {"deco": DecoSettings()}


def decode(lvlm: Lvlm, batch: Batch, settings: DecoSettings, max_new_tokens: int) -> TokenIds:
    """Decode greedily from DeCo's scores.

    Returns: the token ids of each row, without its end token.
    Raises:
        ValueError: layers that the model does not have, or none of 32 that fall into its depth.
        CannotDecode: a model whose final norm is not known.
    Source: Wang et al., "MLLM Can See? Dynamic Correction Decoding for Hallucination Mitigation" (ICLR 2025), and its
        code: alpha 0.6, 20 to 28 of 32; its README's table has alpha 0.5.
    Differs: the code chooses one layer for the whole batch; ours is per row. Suppressed ids are left out of every
        distribution, as if the vocabulary lacked them.
    """
    layers, norm = layers_of(len(decoder_layers(lvlm.model)), VOTING, settings.layers, "DeCo"), final_norm(lvlm.model)
    stepper, head = Stepper(lvlm.model, batch.inputs), lvlm.model.get_output_embeddings()
    with stepper.watch(layers) as hidden:

        def choose(logits: Tensor) -> Tensor:
            states = torch.stack([hidden[layer].to(logits.device) for layer in layers])
            early = stepper.suppress(head(norm(states))).to(logits.device)
            return corrected(logits, early, settings).argmax(-1)

        return decode_rows(stepper, choose, max_new_tokens)


def corrected(logits: Tensor, early: Tensor, settings: DecoSettings) -> Tensor:
    """Scores of the next token, (row, vocabulary); -inf for all that are not plausible.

    Args:
        logits: (row, vocabulary) of the last layer; early: (layer, row, vocabulary) of the earlier ones.
    """
    ranked = logits.softmax(-1).topk(min(settings.top_k, logits.shape[-1]))  # row, candidate
    before = ranked.values.cumsum(-1) - ranked.values
    among = before < settings.top_p  # the shortest prefix that reaches it; the first one always
    votes = early.softmax(-1).gather(2, ranked.indices.expand(len(early), -1, -1))  # layer row candidate
    surest = votes.masked_fill(~among, -1).amax(-1).max(0)  # of each row
    rows = torch.arange(len(logits), device=logits.device)
    added = settings.alpha * surest.values[:, None] * early[surest.indices, rows]
    scores = torch.full_like(logits, -torch.inf)
    chosen = (logits + added).gather(1, ranked.indices).masked_fill(~among, -torch.inf)
    return scores.scatter(1, ranked.indices, chosen)
