"""OPERA a second time, as slowly and plainly as possible: no cache, whole eager maps, loops over lists.

Shares no code with the package beyond the settings.
"""

import math
from collections import defaultdict
from statistics import multimode

import torch
from transformers import PreTrainedModel

from llava_hh.attention.modules import switch_attention
from llava_hh.baselines.opera import OperaSettings
from tests.support.tiny import IMAGE_TOKEN, TinyBatch


class SlowOpera:
    """One prompt without padding. `penalties`, `summaries`, `beams` have one entry per step; `returned` (from, to)."""

    def __init__(
        self, model: PreTrainedModel, alone: TinyBatch, settings: OperaSettings, n_tokens: int, ends: set[int]
    ):
        self.model, self.alone, self.settings, self.n_tokens, self.ends = model, alone, settings, n_tokens, ends
        self.image = [k for k, is_image in enumerate(alone.image_mask[0].tolist()) if is_image]
        self.start = alone.image_mask.shape[1]
        self.seen: dict[tuple[int, ...], tuple[list[float], list[list[float]]]] = {}
        self.penalties, self.summaries, self.beams, self.returned = [], [], [], []

    @torch.no_grad()
    def look(self, answers: list[list[int]]) -> None:
        """Find logits after answers of one length, and the rows of the last layer's map that belong to their tokens.

        A row is the largest over heads, and sums to 1.
        """
        answers = [answer for answer in answers if tuple(answer) not in self.seen]
        if not answers:
            return
        inputs = {name: torch.cat([tensor] * len(answers)) for name, tensor in self.alone.inputs.items()}
        ids = torch.cat([inputs["input_ids"], torch.tensor(answers, dtype=torch.long)], 1)
        inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
        with switch_attention(self.model, "eager"):
            outputs = self.model(**inputs, output_attentions=True)
        maps = outputs.attentions[-1][:, :, self.start :].transpose(1, 2).tolist()  # answer query head key
        for answer, logits, heads_of_row in zip(answers, outputs.logits[:, -1].tolist(), maps, strict=True):
            logits[IMAGE_TOKEN] = -math.inf
            largest = [[max(weights) for weights in zip(*heads, strict=True)] for heads in heads_of_row]
            rows = [[weight / math.fsum(row) for weight in row] for row in largest]
            self.seen[tuple(answer)] = logits, rows

    def penalty(self, answer: list[int]) -> tuple[float, int]:
        """Of an answer whose last token is the candidate."""
        _, rows = self.seen[tuple(answer)]
        window = [[self.settings.scale_factor * weight for weight in row[self.start :]] for row in rows]
        scores = []
        for j in range(len(window)):
            score = 1e-7 * math.prod(window[i][j] for i in range(j, len(window)))
            scores.append(torch.tensor(score).half().item() if self.settings.variant == "released" else score)
        if len(window) <= 10:
            return -sum(rows[-1][k] for k in self.image), scores.index(max(scores))
        return max(scores), scores.index(max(scores))

    def run(self) -> list[int]:
        settings = self.settings
        now = {"answers": [[]], "scores": [0.0], "ended": [], "chosen": None}
        history, summaries, rejected, visits = [], [], defaultdict(list), defaultdict(int)
        while True:
            if len(history) >= settings.window:
                history.pop(0)
            history.append(now)
            options, penalties, named = [], [], []
            self.look(now["answers"])
            for beam, answer in enumerate(now["answers"]):
                logits, _ = self.seen[tuple(answer)]
                best = sorted(range(len(logits)), key=logits.__getitem__, reverse=True)[: settings.num_candidates]
                self.look([[*answer, token] for token in best])
                looked = [self.penalty([*answer, token]) for token in best]
                penalties.append([penalty for penalty, _ in looked])
                named.append(min(multimode(place for _, place in looked)))
                cut = {
                    token: logits[token] - settings.penalty_weight * penalty
                    for token, (penalty, _) in zip(best, looked, strict=True)
                }
                options += self.options(beam, now, cut)
            summaries.append(named)
            self.penalties.append(penalties)
            self.summaries.append(named)
            self.beams.append((now["answers"], now["scores"]))
            summary, length = min(multimode(named)), len(now["answers"][0])
            agreed = all(
                len([own for own in summaries if len(own) > beam and own[beam] == summary]) > settings.threshold
                for beam in range(len(named))
            )
            position = None
            if agreed and summary >= 10:
                position = max(summary + 1, length + 1 - len(history))
                if visits[position] >= settings.num_candidates:
                    position -= 1
                possible = length + 1 - len(history) <= position <= length - 1
                position = position if possible and visits[position] < settings.num_candidates else None
            if position is not None:
                visits[position] += 1
                self.returned.append((length, position))
                for _ in range(length + 1 - position - 2):
                    history.pop()
                    summaries.pop()
                left = history.pop()
                summaries.pop()
                now = history[-1]
                assert len(now["answers"][0]) == position == len(left["answers"][0]) - 1
                rejected = defaultdict(list, {p: pairs for p, pairs in rejected.items() if p <= position})
                rejected[position] += left["chosen"]
                options = []
                for beam, answer in enumerate(now["answers"]):
                    logits, _ = self.seen[tuple(answer)]
                    allowed = [token for token in range(len(logits)) if (beam, token) not in rejected[position]]
                    options += self.options(beam, now, {token: logits[token] for token in allowed})
            now = self.advance(now, options)
            if now["done"]:
                return max(now["ended"], key=lambda each: each[0])[1]

    def options(self, beam: int, now: dict, logits: dict[int, float]) -> list[tuple[float, int, int]]:
        """(total, beam, token) of every token in `logits`, whose softmax is over these alone."""
        top = max(logits.values())
        total = top + math.log(sum(math.exp(logit - top) for logit in logits.values()))
        return [(now["scores"][beam] + logit - total, beam, token) for token, logit in logits.items()]

    def advance(self, now: dict, options: list[tuple[float, int, int]]) -> dict:
        """Beam search as in transformers."""
        n_beams = self.settings.num_beams
        after = {"answers": [], "scores": [], "ended": list(now["ended"]), "chosen": []}
        options = [option for option in sorted(options, key=lambda each: -each[0]) if option[0] > -math.inf]
        for rank, (total, beam, token) in enumerate(options):
            answer = now["answers"][beam]
            length = len(answer) + 1
            if token in self.ends or length == self.n_tokens:
                if rank < n_beams:
                    after["ended"].append((total / length, answer if token in self.ends else [*answer, token]))
            elif len(after["answers"]) < n_beams:
                after["answers"].append([*answer, token])
                after["scores"].append(total)
                after["chosen"].append((beam, token))
        after["ended"] = sorted(after["ended"], key=lambda each: -each[0])[:n_beams]
        full = len(after["ended"]) == n_beams
        after["done"] = not after["answers"] or (full and after["scores"][0] / length <= after["ended"][-1][0])
        return after
