"""DoLa, decoding by contrasting layers: what the last layer says, less what an earlier one would have said."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from llava_hh.attention.modules import decoder_layers
from llava_hh.baselines.settings import FRACTION, CheckedSettings, Rule, whole
from llava_hh.baselines.stepping import Stepper, TokenIds, decode_rows
from llava_hh.models.lvlm import Batch, Lvlm

SUPPRESSED_BASE = -1e3  # the released code's stand-in for log 0 in the earlier layer


def _are_layers(value: Any) -> bool:
    if isinstance(value, tuple):
        return len(value) > 0 and all(map(whole().holds, value)) and len(set(value)) == len(value)
    return value in (None, "even")


LAYERS = Rule("None, 'even', or different whole numbers from 0 up", _are_layers)


@dataclass(frozen=True)
class DolaSettings(CheckedSettings):
    """Settings of DoLa.

    Args:
        candidate_layers: among these the earlier layer is chosen, anew for each row and step. Numbers are those of
            hidden_states: 0 is the embeddings, j the output of decoder layer j - 1. "even" is every even number below
            the number of layers; None is the same without 0 where input and output embeddings are tied, for there the
            embeddings say the last token over again.
        relative_top: tokens less likely than this times the most likely one are out; 0 keeps all.
        variant: the divergence that chooses the layer. "released": KL(M || p) as in the code; "textbook": the
            Jensen-Shannon divergence as in the paper.

    Raises:
        ValueError: a field that is not allowed.
    """

    candidate_layers: Annotated[tuple[int, ...] | Literal["even"] | None, LAYERS] = None
    relative_top: Annotated[float, FRACTION] = 0.1
    variant: Literal["released", "textbook"] = "released"


PRESETS = {"dola_repo": DolaSettings(candidate_layers="even")}


def decode(lvlm: Lvlm, batch: Batch, settings: DolaSettings, max_new_tokens: int) -> TokenIds:
    """Decode greedily from DoLa's scores. A plain language model will do, by input_ids or inputs_embeds.

    Returns: the token ids of each row, without its end token.
    Raises:
        ValueError: a candidate layer that the model does not have.
    Source: Chuang et al., "DoLa: Decoding by Contrasting Layers Improves Factuality in LLMs" (ICLR 2024), its code,
        and the paper's harness: even layers, no repetition penalty.
    Differs: the code chooses one layer for the whole batch, and filters the earlier layer by the batch's first row;
        ours is per row. Suppressed ids are left out of both distributions, as if the vocabulary lacked them.
    """
    layers = candidate_layers(lvlm.model, settings)
    stepper = Stepper(lvlm.model, batch.inputs)
    with stepper.watch(layers) as hidden:
        return decode_rows(
            stepper, lambda logits: layer_scores(stepper, hidden, layers, logits, settings).argmax(-1), max_new_tokens
        )


def layer_scores(
    stepper: Stepper, hidden: dict[int, Tensor], layers: Sequence[int], logits: Tensor, settings: DolaSettings
) -> Tensor:
    """Scores of the next token, (row, vocabulary), of a step that `hidden` was watched in.

    Args:
        logits: (row, vocabulary), what the step gave.
    """
    head = stepper.model.get_output_embeddings()
    # where the logits are, that is on the head's device; an offloaded head (on meta) fetches its weights and inputs
    states = torch.stack([hidden[layer].to(logits.device) for layer in layers])
    early = stepper.suppress(head(states)).to(logits.device)  # not normed, as in the paper
    return contrast_layers(logits, early, settings)[0]


def candidate_layers(model: PreTrainedModel, settings: DolaSettings) -> list[int]:
    """The numbers of the earlier layers to choose from, ascending.

    Raises:
        ValueError: one that the model does not have, or a model too small to have any.
    """
    asked, n_layers = settings.candidate_layers, len(decoder_layers(model))
    first = 2 if asked is None and is_tied(model) else 0
    chosen = sorted(asked) if isinstance(asked, tuple) else list(range(first, n_layers, 2))
    if not chosen or chosen[-1] >= n_layers:
        raise ValueError(f"candidate_layers {asked!r} do not fit a model whose earlier layers are 0 to {n_layers - 1}")
    return chosen


def is_tied(model: PreTrainedModel) -> bool:
    """Whether input and output embeddings are one matrix; a pass renews offloaded ones, which only names tell then."""
    head = model.get_output_embeddings()
    names = {f"{name}.weight" for name, part in model.named_modules() if part is head}
    return head.weight is model.get_input_embeddings().weight or not names.isdisjoint(model.all_tied_weights_keys)


def contrast_layers(logits: Tensor, early: Tensor, settings: DolaSettings) -> tuple[Tensor, Tensor]:
    """Scores of the next token, and which candidate each row was contrasted with.

    Args:
        logits: (row, vocabulary) of the last layer.
        early: (candidate, row, vocabulary) of the earlier ones.
    Returns: scores (row, vocabulary), -inf outside the plausible tokens; the candidates' indices (row,).
    """
    mature = logits.log_softmax(-1)
    chosen = divergences(mature, early, settings.variant).argmax(0)
    base = early[chosen, torch.arange(len(chosen), device=chosen.device)].log_softmax(-1)
    if settings.relative_top:
        cutoff = mature.amax(-1, keepdim=True) + math.log(settings.relative_top)
        mature = mature.masked_fill(mature < cutoff, -torch.inf)
    base = base.masked_fill(mature < SUPPRESSED_BASE, SUPPRESSED_BASE)
    return mature - base, chosen


def divergences(mature: Tensor, early: Tensor, variant: str) -> Tensor:
    """How far each earlier distribution is from the last layer's.

    With M the mean of the two: "textbook" is 1/2 KL(mature || M) + 1/2 KL(early || M) in nats; "released" is
    1/2 KL(M || mature) + 1/2 KL(M || early), averaged over the vocabulary where a divergence sums.

    Args:
        mature: log-probabilities (row, vocabulary).
        early: logits (candidate, row, vocabulary).
    Returns: (candidate, row)
    """
    probs = _exp(mature)
    distances = []
    for logits in early:  # one by one: all of them at once leave the CPU's caches, at twice the time
        other = logits.log_softmax(-1)
        other_probs = _exp(other)
        mean = (other_probs + probs).div_(2)
        log_mean = mean.log()
        if variant == "textbook":
            terms = probs * (mature - log_mean) + other_probs * (other - log_mean)
        else:
            terms = log_mean.mul_(2).sub_(mature).sub_(other).mul_(mean)
        terms.nan_to_num_(0, 0, 0)  # suppressed in both: 0 log 0
        distances.append(0.5 * (terms.sum(-1) if variant == "textbook" else terms.mean(-1)))
    return torch.stack(distances)


def _exp(log_probs: Tensor) -> Tensor:
    """Probabilities of at least e^-80: smaller ones change no sum here, and denormal numbers are slow on CPUs."""
    return log_probs.clamp(min=-80).exp_()
