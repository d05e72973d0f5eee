"""OPERA's search for one answer: beams under the over-trust penalty, and going back when they agree on a summary."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice, zip_longest

import torch
from torch import Tensor
from torch.nn.functional import pad

from llava_hh.baselines.beams import Beams, extend

FIRST_TOKENS = 10  # up to this length attention to the image is rewarded; and nothing before this position is a summary
LOG_UNIT = math.log(1e-7)  # the released code multiplies its scores by this


@dataclass
class State:
    """The beams before one step, and what going on from there takes; slots are the live beams, best first."""

    beams: Beams
    origin: list[tuple[int, int]]  # slot; the beam before, and the token that was added to it
    columns: list[list[int]]  # slot position; the columns of the answer's tokens in the cache
    seen: Tensor  # slot column, bool; those columns and the prompt's, on the model's device
    products: Tensor  # slot position, fp64; log of the product of scaled attention that each token got so far
    logits: Tensor  # slot vocabulary, on the model's device
    rejected: list[tuple[int, int]] = field(default_factory=list)  # slot and token that were tried from here


@dataclass(frozen=True)
class Choice:
    """How a search goes on from `state`; by default, as one that is done: its best beam alone, with any token.

    Attributes:
        beams: the beams after the chosen tokens.
        parents: for each of them, the slot of the beam before.
        indices: for each of them, which of the candidates it took: slot * candidates + candidate.
        reallocated: the tokens were chosen from the whole vocabulary, after going back.
    """

    state: State
    beams: Beams = field(default_factory=lambda: Beams([[0]]))
    parents: Sequence[int] = (0,)
    indices: Sequence[int] = (0,)
    reallocated: bool = False

    @property
    def tokens(self) -> list[int]:
        return [answer[-1] for answer in self.beams.answers]


class Search:
    """The beams of one answer, their history, and how often they went back to each position.

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
        self.returns: Counter[int] = Counter()  # by length; how often the search went back there
        self.result: list[int] | None = None  # token ids without the end token, once the search is done

    @property
    def state(self) -> State:
        return self.states[max(self.states)]

    def choose(self, scores: Tensor, tokens: Tensor, weights: Tensor, image_mass: Tensor) -> Choice:
        """Penalise the candidates; take the best continuations, or go back; `result` is set if that ended the search.

        Args:
            scores, tokens: (slot, candidate) logits and ids of the candidates.
            weights: (slot, candidate, position) each candidate's attention to the answer before it and to itself.
            image_mass: (slot, candidate) its attention to the image, a fraction.
        """
        state, given = self.state, self.settings
        penalties, summaries = penalise(state.products, weights, image_mass, given.scale_factor, given.variant)
        self.summaries.append([most_common(of_slot) for of_slot in summaries.tolist()])
        position = self.position_to_return_to()
        if position is None:
            scores = (scores.double() - given.penalty_weight * penalties).log_softmax(-1)
        else:
            state, scores, tokens = self.go_back(position)
        extended = extend(state.beams, scores, tokens, given.num_beams, self.ends, self.max_new_tokens)
        if extended[0].done:
            self.result = extended[0].ended[0][1]
            return Choice(self.state)
        return Choice(state, *extended, position is not None)

    def position_to_return_to(self) -> int | None:
        """The length to go back to, which is counted; None to go on.

        The live beams must agree: each must have named the summary that most of them name now in more than `threshold`
        steps. Beams are told apart by slot, as in the released code, whatever hypothesis stood there.
        """
        now, n_candidates = self.summaries[-1], self.settings.num_candidates
        summary = most_common(now)
        by_slot = islice(zip_longest(*self.summaries), len(now))
        if summary < FIRST_TOKENS or min(named.count(summary) for named in by_slot) <= self.settings.threshold:
            return None
        position = max(summary + 1, min(self.states))
        position -= self.returns[position] >= n_candidates
        # what was chosen there must be known, to choose otherwise
        if not {position, position + 1} <= self.states.keys() or self.returns[position] >= n_candidates:
            return None
        self.returns[position] += 1
        return position

    def go_back(self, position: int) -> tuple[State, Tensor, Tensor]:
        """Drop what came after `position`; its state, and scores and ids of the options there, (slot, option).

        All of the vocabulary is open, but for what was chosen there in this and earlier visits.
        """
        state = self.states[position]
        state.rejected.extend(self.states[position + 1].origin)
        self.states = {length: kept for length, kept in self.states.items() if length <= position}
        del self.summaries[position + 1 :]
        logits = state.logits.clone()
        slots, tokens = zip(*state.rejected, strict=True)
        logits[list(slots), list(tokens)] = -torch.inf
        n_options = min(logits.shape[-1], (1 + max(1, len(self.ends))) * self.settings.num_beams)
        best = logits.log_softmax(-1).topk(n_options)
        return state, best.values.cpu().double(), best.indices.cpu()

    def enter(self, choice: Choice, logits: Tensor, weights: Tensor, first_column: int) -> None:
        """Step to the chosen beams, whose tokens were cached from `first_column` on, in order.

        Args:
            logits: (slot, vocabulary) after the chosen tokens.
            weights: (slot, position) attention of the chosen tokens to the answer and to themselves.
        """
        before, parents = choice.state, list(choice.parents)
        columns = range(first_column, first_column + len(parents))
        seen = pad(before.seen[parents], (0, columns.stop - before.seen.shape[1]))
        seen[range(len(parents)), columns] = True
        length = choice.beams.length
        self.states[length] = State(
            choice.beams,
            [*zip(parents, choice.tokens, strict=True)],
            [before.columns[parent] + [column] for parent, column in zip(parents, columns, strict=True)],
            seen,
            pad(before.products[parents], (0, 1)) + log_scaled(weights, self.settings.scale_factor),
            logits,
        )
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
    largest, positions = scores.max(-1)
    if weights.shape[-1] <= FIRST_TOKENS:
        return -image_mass.double(), positions
    # kept finite, so that equally infinite penalties leave the candidates a difference
    largest = largest.double() if variant == "released" else largest.exp().clamp(max=torch.finfo(torch.float).max)
    return largest, positions


def log_scaled(weights: Tensor, scale_factor: float) -> Tensor:
    """Log of scaled attention in fp64; -inf where there is none."""
    return (scale_factor * weights.double()).log()


def most_common(values: Iterable[int]) -> int:
    """The most common of `values`, the smallest among equals."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))
