"""Beam search of one answer: which continuations go on, which have ended, and when nothing better can come."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Beams:
    """The live beams of one answer, best first, all of the same length; and the answers that have ended.

    Attributes:
        answers: token ids of each live beam.
        scores: summed log-probabilities (nats) of each.
        ended: (score per token, token ids without the end token), best first, at most as many as beams. The end token
            counts as one of the tokens.
        done: no live beam is left, or there are enough ended answers and none can be bettered by the best live beam.
    """

    answers: list[list[int]] = field(default_factory=lambda: [[]])
    scores: list[float] = field(default_factory=lambda: [0.0])
    ended: list[tuple[float, list[int]]] = field(default_factory=list)
    done: bool = False

    @property
    def n_live(self) -> int:
        return len(self.answers)

    @property
    def length(self) -> int:
        """Tokens in each live beam."""
        return len(self.answers[0])


@dataclass(frozen=True)
class Extension:
    """Beams after one more token.

    Attributes:
        parents, places: for each live one, the beam before, and which of the continuations it took: beam before *
            options + option.
    """

    beams: Beams
    parents: list[int]
    places: list[int]


def extend(
    beams: Beams, scores: Tensor, tokens: Tensor, num_beams: int, ends: set[int], max_new_tokens: int
) -> Extension:
    """Take the best continuations.

    One that ends, by an end token or by its length, counts if it is among the `num_beams` best. The others go on, as
    many as `num_beams`; a score of -inf never does, so there may be fewer.

    Args:
        scores: (beam, option) log-probabilities of the next token.
        tokens: (beam, option) their ids. Options must be enough, or all there are: ends take up to one per beam each.
    Source: transformers' beam search with its defaults (length_penalty 1, early_stopping False).
    """
    totals = scores + scores.new_tensor(beams.scores)[:, None]
    ranked = totals.flatten().sort(descending=True, stable=True)
    ids = tokens.flatten().tolist()
    length = beams.length + 1
    ended = list(beams.ended)
    live, parents, places = [], [], []
    for rank, (total, place) in enumerate(zip(ranked.values.tolist(), ranked.indices.tolist(), strict=True)):
        if total == -float("inf") or (len(live) == num_beams and rank >= num_beams):
            break
        parent = place // totals.shape[1]
        stops = ids[place] in ends
        answer = beams.answers[parent] + [ids[place]] * (not stops)
        if stops or length == max_new_tokens:
            if rank < num_beams:
                ended.append((total / length, answer))
        elif len(live) < num_beams:
            live.append((answer, total))
            parents.append(parent)
            places.append(place)
    ended = sorted(ended, key=lambda each: -each[0])[:num_beams]
    done = not live or (len(ended) == num_beams and live[0][1] / length <= ended[-1][0])
    after = Beams([answer for answer, _ in live], [total for _, total in live], ended, done)
    return Extension(after, parents, places)
