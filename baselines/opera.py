"""OPERA, beam search that penalises over-trust in single tokens of the answer, and goes back when it has built up."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from llava_hh.baselines.branching import Branches
from llava_hh.baselines.retrospection import Choice, Search, State
from llava_hh.baselines.settings import POSITIVE, CheckedSettings, at_least, whole
from llava_hh.baselines.stepping import TokenIds, end_ids
from llava_hh.models.lvlm import Batch, Lvlm


@dataclass(frozen=True)
class OperaSettings(CheckedSettings):
    """Settings of OPERA.

    Args:
        num_beams: hypotheses per answer.
        num_candidates: tokens per beam that are looked ahead, and from which the next ones are taken.
        scale_factor: what attention is multiplied by before products of it are taken.
        threshold: beams go back after naming the same summary token in more steps than this.
        penalty_weight: how many times the penalty is taken from a candidate's logit; 0 leaves beam search over the
            candidates.
        window: how many steps are remembered, and so how far beams can go back.
        variant: "released" rounds the scores of summary tokens to fp16, as the code did.

    Raises:
        ValueError: a field that is not allowed.
    """

    num_beams: Annotated[int, whole(1)] = 5
    num_candidates: Annotated[int, whole(1)] = 5
    scale_factor: Annotated[float, POSITIVE] = 50.0
    threshold: Annotated[int, whole()] = 15
    penalty_weight: Annotated[float, at_least(0)] = 1.0
    window: Annotated[int, whole(1)] = 512
    variant: Literal["exact", "released"] = "exact"


PRESETS = {"opera": OperaSettings(), "opera_fast": OperaSettings(num_candidates=1, threshold=25)}


@torch.no_grad()
def decode(lvlm: Lvlm, batch: Batch, settings: OperaSettings, max_new_tokens: int) -> TokenIds:
    """Decode by OPERA. A plain language model will do, by input_ids or inputs_embeds.

    All candidates of all beams of all rows are looked ahead in one forward, and what was computed for those that are
    taken is what the next step starts from: so an answer of n tokens takes the prompt and n forwards. Going back takes
    one forward more, for its tokens come from the whole vocabulary. Every row has its own beams, history and
    positions, and the prompt is cached once per row.

    Returns: the token ids of each row, without its end token.
    Raises:
        ValueError: an image_mask that doesn't fit the inputs, `max_new_tokens` below 1, more candidates than the
            vocabulary has.
        CannotDecode: a model that reads its image by cross-attention, or whose cache drops keys; an open block of
            `intervene`.
    Source: Huang et al., "OPERA: Alleviating Hallucination in Multi-Modal Large Language Models via Over-Trust Penalty
        and Retrospection-Allocation" (CVPR 2024), and its code.
    Differs: the code mixes the rows of a batch, and takes one image span for all. It computes in the model's
        precision; ours in fp32, with products as sums of logs in fp64. It fills the vocabulary beyond the candidates
        with -999, and sets what it rejects there to the least logit: such tokens may be taken where better ones lack.
        Ours can't be, so a search may have fewer live beams for a while; with one candidate it has one, and is greedy
        until it goes back. It runs each candidate's forward anew for the beam that takes it. Going back, it recomputes
        the cache, forgets rejected tokens of other positions than those it leaves, and goes on as usual if anything
        fails there, histories half cut; ours goes back at most to the oldest step it remembers. Ended answers are
        scored per generated token, as in today's beam search; the code counts the prompt's tokens too. Where several
        positions are equally common, the smallest counts. Suppressed ids are never candidates.
    """
    model, inputs, image_mask = lvlm.model, batch.inputs, batch.image_mask
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    prompt = inputs.get("input_ids", inputs.get("inputs_embeds"))
    if prompt is not None and image_mask.shape != prompt.shape[:2]:
        raise ValueError(f"image_mask is {tuple(image_mask.shape)}, the prompts are {tuple(prompt.shape[:2])}")
    size, asked = model.config.get_text_config().vocab_size, settings.num_candidates
    if asked > size:
        raise ValueError(f"num_candidates {asked} is more than the {size} tokens of the vocabulary")
    branches, ends = Branches(model, inputs), set(end_ids(model))
    with branches.watched():
        logits = branches.step()
        rows = zip(logits, branches.prompt_mask, strict=True)
        searches = [Search(settings, of_row, mask, ends, max_new_tokens) for of_row, mask in rows]
        while any(search.result is None for search in searches):
            take_step(branches, searches, image_mask.to(logits.device), asked)
    return [search.result for search in searches]


def take_step(branches: Branches, searches: Sequence[Search], image_mask: Tensor, n_candidates: int) -> None:
    """Look ahead, let every search that is not done choose, and cache the tokens that they chose.

    A search that is done is carried along by its best beam alone.
    """
    n_before = branches.n_columns
    states = [search.state for search in searches]
    live = [state.beams.n_live if search.result is None else 1 for search, state in zip(searches, states, strict=True)]
    slots = evened([range(n_slots) for n_slots in live])
    logits = torch.stack([state.logits[chosen] for state, chosen in zip(states, slots, strict=True)])
    scores, tokens = logits.topk(n_candidates)  # row slot candidate
    ahead, weights, mass = run(branches, states, slots, tokens, image_mask)
    parts = zip(scores.cpu(), tokens.cpu(), weights, mass, strict=True)
    choices = [
        search.choose(*(part[:n_slots] for part in row)) if search.result is None else Choice(search.state)
        for search, n_slots, row in zip(searches, live, parts, strict=True)
    ]
    if all(search.result is not None for search in searches):
        return
    if any(choice.reallocated for choice in choices):
        states, slots = [choice.state for choice in choices], evened([choice.parents for choice in choices])
        tokens = torch.tensor(evened([choice.tokens for choice in choices]))
        branches.keep(tokens.new_zeros(len(states), 0), n_before)
        ahead, weights, _ = run(branches, states, slots, tokens[:, :, None], image_mask)
        indices = [[*range(tokens.shape[1])]] * len(states)
    else:
        indices = evened([choice.indices for choice in choices])
        branches.keep(torch.tensor(indices), n_before)
    for row, (search, choice) in enumerate(zip(searches, choices, strict=True)):
        if search.result is None:
            taken = indices[row][: choice.beams.n_live]
            search.enter(choice, ahead[row, taken], weights[row].flatten(0, 1)[taken], n_before)


def run(
    branches: Branches, states: Sequence[State], slots: list[list[int]], tokens: Tensor, image_mask: Tensor
) -> tuple[Tensor, list[Tensor], Tensor]:
    """One forward of tokens that each follow a slot of their row's state.

    Args:
        slots: (row, slot) which of the state's.
        tokens: (row, slot, token) ids.
    Returns: logits (row, slot * token, vocabulary); and on the CPU, of each row, attention to the answer's positions
        and to the token itself, (slot, token, position); attention to the image, (row, slot, token), a fraction.
    """
    n_before, (_, width, n_tokens) = branches.n_columns, tokens.shape
    lengths, rows = [state.beams.length for state in states], [*zip(states, slots, strict=True)]
    seen = torch.stack([pad(state.seen, (0, n_before - state.seen.shape[1]))[chosen] for state, chosen in rows])
    depths = torch.tensor(lengths, device=seen.device)
    logits, attention = branches.grow(tokens.flatten(1), seen.repeat_interleave(n_tokens, 1), depths)
    itself = attention[:, :, n_before:].diagonal(dim1=1, dim2=2).unflatten(1, (width, n_tokens))
    attention = attention.unflatten(1, (width, n_tokens))
    longest = max(lengths)
    columns = [[state.columns[slot] + [0] * (longest - state.beams.length) for slot in own] for state, own in rows]
    index = torch.tensor(columns, dtype=torch.long, device=attention.device)[:, :, None].expand(-1, -1, n_tokens, -1)
    parts = zip(attention.gather(3, index).cpu(), itself[..., None].cpu(), lengths, strict=True)
    weights = [torch.cat([before[..., :length], last], -1) for before, last, length in parts]
    return logits, weights, (attention[..., : image_mask.shape[1]] * image_mask[:, None, None]).sum(-1).cpu()


def evened(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Rows of one length: the shorter ones repeat their first entry."""
    width = max(map(len, rows))
    return [[*row, *[row[0]] * (width - len(row))] for row in rows]
