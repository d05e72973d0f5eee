"""OPERA's search for one answer: beams under the over-trust penalty, and going back when they agree on a summary."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from baselines.beams import Beams, Extension, extend

FIRST_TOKENS = 10  # up to this length attention to the image is rewarded; and nothing before this position is a summary
LOG_UNIT = math.log(1e-7)  # the released code multiplies its scores by this


@dataclass
class State:
    """The beams before one step, and what it takes to go on from there: slots are the live beams, best first."""

    beams: Beams
    origin: list[tuple[int, int]]  # slot; the beam before, and the token that was added to it
    columns: list[list[int]]  # slot position; where the answer's tokens stand in the cache
    seen: Tensor  # slot column, bool; those columns and the prompt's, on the model's device
    products: Tensor  # slot position, fp64; log of the product of scaled attention that each token got so far
    logits: Tensor  # slot vocabulary, on the model's device


@dataclass(frozen=True)
class Choice:
    """What to do next: `extension` continues the beams of `state`; `slots` says by which tokens."""

    state: State
    extension: Extension
    tokens: list[int]  # slot
    reallocated: bool  # the tokens were chosen from the whole vocabulary, after going back


class Search:
    """The beams of one answer, their history, and how often they went back to which position.

    Args:
        settings: an `OperaSettings`.
        logits: (vocabulary,) of the first token.
        prompt_mask: (prompt position,) bool, False at padding.
    """

    def __init__(self, settings, logits: Tensor, prompt_mask: Tensor, ends: set[int], max_new_tokens: int) -> None:
        self.settings, self.ends, self.max_new_tokens = settings, ends, max_new_tokens
        first = State(Beams(), [], [[]], prompt_mask[None], torch.zeros(1, 0, dtype=torch.double), logits[None])
        self.states = {0: first}  # by length; the last `window` of them
        self.summaries: list[list[int]] = []  # step slot; the token that most candidates of the slot trust
        self.rejected: dict[int, list[tuple[int, int]]] = {}  # by length; (slot, token) that were tried there
        self.returns: Counter[int] = Counter()  # by length; how often the search went back there
        self.result: list[int] | None = None  # token ids without the end token, once the search is done

    @property
    def state(self) -> State:
        return self.states[max(self.states)]

    def choose(self, scores: Tensor, tokens: Tensor, weights: Tensor, image_mass: Tensor) -> Choice | None:
        """Penalise the candidates; take the best continuations, or go back; None if that ended the search.

        Args:
            scores, tokens: (slot, candidate) logits and ids of the candidates.
            weights: (slot, candidate, position) each candidate's attention to the answer before it and to itself.
            image_mass: (slot, candidate) its attention to the image, a fraction.
        """
        state, settings = self.state, self.settings
        penalties, summaries = penalise(state.products, weights, image_mass, settings.scale_factor, settings.variant)
        self.summaries.append([most_common(own) for own in summaries.tolist()])
        position = self.position_to_return_to()
        if position is not None:
            return self._taken(*self.go_back(position), reallocated=True)
        scores = (scores.double() - settings.penalty_weight * penalties).log_softmax(-1)
        return self._taken(state, scores, tokens, reallocated=False)

    def position_to_return_to(self) -> int | None:
        """The length to go back to, which is counted; None to go on.

        The live beams must agree: each must have named the summary that most of them name now in more than `threshold`
        steps. Beams are told apart by slot, as in the released code, whatever hypothesis stood there.
        """
        now = self.summaries[-1]
        summary = most_common(now)
        if summary < FIRST_TOKENS:
            return None
        for slot in range(len(now)):
            named = sum(then[slot] == summary for then in self.summaries if slot < len(then))
            if named <= self.settings.threshold:
                return None
        position = max(summary + 1, min(self.states))
        if self.returns[position] >= self.settings.num_candidates:
            position -= 1
        # what was chosen there must be known, to choose otherwise
        known = position in self.states and position + 1 in self.states
        if not known or self.returns[position] >= self.settings.num_candidates:
            return None
        self.returns[position] += 1
        return position

    def go_back(self, position: int) -> tuple[State, Tensor, Tensor]:
        """Drop what came after `position`; its state, and scores and ids of the options there, (slot, option).

        All of the vocabulary is open, but for what was chosen there in this and earlier visits.
        """
        state = self.states[position]
        self.rejected = {length: pairs for length, pairs in self.rejected.items() if length <= position}
        self.rejected.setdefault(position, []).extend(self.states[position + 1].origin)
        self.states = {length: kept for length, kept in self.states.items() if length <= position}
        self.summaries = self.summaries[: position + 1]
        logits = state.logits.clone()
        slots, tokens = zip(*self.rejected[position], strict=True)
        logits[list(slots), list(tokens)] = -torch.inf
        n_options = min(logits.shape[-1], (1 + max(1, len(self.ends))) * self.settings.num_beams)
        best = logits.log_softmax(-1).topk(n_options)
        return state, best.values.cpu().double(), best.indices.cpu()

    def _taken(self, state: State, scores: Tensor, tokens: Tensor, reallocated: bool) -> Choice | None:
        settings = self.settings
        extension = extend(state.beams, scores, tokens, settings.num_beams, self.ends, self.max_new_tokens)
        if extension.beams.done:
            self.result = extension.beams.ended[0][1]
            return None
        chosen = [answer[-1] for answer in extension.beams.answers]
        return Choice(state, extension, chosen, reallocated)

    def enter(self, choice: Choice, logits: Tensor, weights: Tensor, first_column: int) -> None:
        """Step to the chosen beams, whose tokens were cached from `first_column` on, in order.

        Args:
            logits: (slot, vocabulary) after the chosen tokens.
            weights: (slot, position) attention of the chosen tokens to the answer and to themselves.
        """
        before, parents = choice.state, choice.extension.parents
        own = range(first_column, first_column + len(parents))
        seen = pad(before.seen[parents], (0, first_column + len(parents) - before.seen.shape[1]))
        seen[range(len(parents)), own] = True
        after = State(
            choice.extension.beams,
            [*zip(parents, choice.tokens, strict=True)],
            [before.columns[parent] + [column] for parent, column in zip(parents, own, strict=True)],
            seen,
            pad(before.products[parents], (0, 1)) + log_scaled(weights, self.settings.scale_factor),
            logits,
        )
        length = after.beams.length
        self.states[length] = after
        self.states.pop(length - self.settings.window, None)


def penalise(
    products: Tensor, weights: Tensor, image_mass: Tensor, scale_factor: float, variant: str
) -> tuple[Tensor, Tensor]:
    """What is taken from each candidate's logit, and which position of the answer it trusts most.

    The score of position j is 1e-7 times the product, over the rows i from j to the candidate, of `scale_factor` times
    the attention of token i to token j. The penalty is the largest score; while the answer with the candidate has at
    most 10 tokens, it is less the attention to the image.

    Args:
        products: (slot, position) logs of the products without the candidate's row.
        weights: (slot, candidate, position), one position more; image_mass: (slot, candidate).
        variant: "released" rounds the scores to fp16, in which most of them are 0, before the largest is sought.
    Returns: penalties (slot, candidate) fp64, and positions (slot, candidate), the first among equals.
    """
    scores = pad(products, (0, 1))[:, None] + log_scaled(weights, scale_factor) + LOG_UNIT
    if variant == "released":
        scores = scores.exp().half().clamp(max=torch.finfo(torch.half).max)
    largest, places = scores.max(-1)
    if weights.shape[-1] <= FIRST_TOKENS:
        return -image_mass.double(), places
    # kept finite, so that equally infinite penalties leave the candidates a difference
    largest = largest.double() if variant == "released" else largest.exp().clamp(max=torch.finfo(torch.float).max)
    return largest, places


def log_scaled(weights: Tensor, scale_factor: float) -> Tensor:
    """Log of scaled attention in fp64; -inf where there is none."""
    return (scale_factor * weights.double()).log()


def most_common(values: Iterable[int]) -> int:
    """The most common of `values`, the smallest among equals."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))
