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


def extend(
    beams: Beams, scores: Tensor, tokens: Tensor, num_beams: int, ends: set[int], max_new_tokens: int
) -> tuple[Beams, list[int], list[int]]:
    """Take the best continuations.

    One that ends, by an end token or by its length, counts if it is among the `num_beams` best. The others go on, as
    many as `num_beams`; a score of -inf never does, so there may be fewer.

    Args:
        scores: (beam, option) log-probabilities of the next token.
        tokens: (beam, option) their ids. Options must be enough, or all there are: ends take up to one per beam each.
    Returns: the beams after the token; for each live one, the index of the beam before; and for each, the index of the
        continuation that it took, beam before * options + option.
    Source: transformers' beam search with its defaults (length_penalty 1, early_stopping False).
    """
    totals = (scores + scores.new_tensor(beams.scores)[:, None]).flatten()
    ranked = totals.sort(descending=True, stable=True)
    ids, length = tokens.flatten().tolist(), beams.length + 1
    ended, live = list(beams.ended), []  # live: answer, score, beam before, continuation
    for rank, (total, index) in enumerate(zip(ranked.values.tolist(), ranked.indices.tolist(), strict=True)):
        if total == -float("inf") or (len(live) == num_beams and rank >= num_beams):
            break
        parent, stops = index // scores.shape[1], ids[index] in ends
        answer = beams.answers[parent] + [ids[index]] * (not stops)
        if stops or length == max_new_tokens:
            ended += [(total / length, answer)] * (rank < num_beams)
        elif len(live) < num_beams:
            live.append((answer, total, parent, index))
    ended = sorted(ended, key=lambda scored: -scored[0])[:num_beams]
    done = not live or (len(ended) == num_beams and live[0][1] / length <= ended[-1][0])
    answers, totals, parents, indices = ([row[part] for row in live] for part in range(4))
    return Beams(answers, totals, ended, done), parents, indices
