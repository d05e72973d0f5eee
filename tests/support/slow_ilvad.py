"""ILVAD a second time: one row, no cache, Python loops over eager maps, decisions of earlier rows replayed."""

import math
from statistics import fmean, stdev

import torch
from torch import Tensor


def evidence(attention: list[list[list[float]]], jump: float) -> list[float]:
    """By layer, step and image token, what the first pass saw: the evidence of each token."""
    by_layer = [[fmean(step[token] for step in steps) for token in range(len(steps[0]))] for steps in attention]
    high = [[value > jump * fmean(layer) for value in layer] for layer in by_layer]
    mean = [fmean(layer[token] for layer in by_layer) for token in range(len(by_layer[0]))]
    jumps = []
    for token in range(len(mean)):
        n = sum(after[token] and not before[token] for before, after in zip(high, high[1:], strict=False))
        jumps.append(float(n) if mean[token] > fmean(mean) else 0.0)
    jumps = cut(jumps)
    return [0.0] * len(jumps) if max(jumps) == min(jumps) else [scaled(n, jumps) for n in jumps]


def cut(values: list[float]) -> list[float]:
    if len(values) < 2:
        return values
    mean, spread = fmean(values), 3 * stdev(values)
    return [min(max(value, mean - spread), mean + spread) for value in values]


def scaled(value: float, of: list[float]) -> float:
    return 0.0 if max(of) == min(of) else (value - min(of)) / (max(of) - min(of))


def top(values: list[float], n: int) -> list[int]:
    return sorted(range(len(values)), key=lambda index: (-values[index], index))[:n]


class Looking:
    """The first pass: keeps what the better half of the heads saw of the image, in the last row, by layer and step."""

    def __init__(self, image: list[int], n_layers: int) -> None:
        self.image, self.seen = image, [[] for _ in range(n_layers)]

    def boost(self, layer: int, scores: Tensor) -> None:
        pass

    def edit(self, layer: int, weights: Tensor) -> None:
        rows = [[head[-1, key].item() for key in self.image] for head in weights[0]]
        chosen = top([sum(row) for row in rows], len(rows) // 2)
        self.seen[layer].append([fmean(rows[head][i] for head in chosen) for i in range(len(self.image))])


class Replay:
    """The second pass: edits the rows that predict, one more in each forward."""

    def __init__(self, image: list[int], log_map: dict[int, float], beta: float, layers: list[int], start: int) -> None:
        self.image, self.log_map, self.beta, self.layers, self.start = image, log_map, beta, layers, start
        self.factors: dict[tuple[int, int], list[dict[int, float]]] = {}  # by layer and row, of each head by key
        self.sums: dict[int, float] = {}  # by key after the image
        self.next = 0.0

    def boost(self, layer: int, scores: Tensor) -> None:
        pass

    def edit(self, layer: int, weights: Tensor) -> None:
        last = weights.shape[2] - 1
        if layer == 0 and last == self.start - 1:  # the prompt
            self.sums = dict.fromkeys(range(self.image[-1] + 1, self.start), 0.0)
        elif layer == 0:
            self.sums[last], self.next = self.next, 0.0
        for row in range(self.start - 1, last):  # they have predicted already
            self.apply(layer, row, weights)
        rows = range(self.image[-1] + 1, last + 1) if last == self.start - 1 else [last]
        for row in rows:
            looked = self.look(weights[0, :, row])
            if row < last:
                self.sums[row] += looked[1]
            else:
                self.next += looked[1]
        self.factors[layer, last] = self.decide(layer, weights[0, :, last], looked[0])
        self.apply(layer, last, weights)

    def look(self, row: Tensor) -> tuple[list[int], float]:
        """The heads that look at the evidence most, and how much a position looked there. `row` is (head, key)."""
        on_evidence = [sum(head[key].item() * weight for key, weight in self.log_map.items()) for head in row]
        on_image = [sum(head[key].item() for key in self.image) for head in row]
        chosen = top([own / (mass + 1e-8) for own, mass in zip(on_evidence, on_image, strict=True)], len(row) // 2)
        return chosen, sum(on_evidence[head] for head in chosen) / len(chosen)

    def decide(self, layer: int, row: Tensor, looks: list[int]) -> list[dict[int, float]]:
        factors: list[dict[int, float]] = [{} for _ in row]
        if layer not in self.layers:
            return factors
        keys = sorted(self.sums)
        before = [self.sums[key] for key in keys]
        self.sums = dict(zip(keys, cut(before), strict=True))
        reads = top([sum(head[key].item() for key in keys) for head in row], len(row) // 2)
        for head in looks:
            factors[head] |= {key: math.exp(weight) for key, weight in self.log_map.items()}
        for head in reads:
            factors[head] |= {key: scaled(self.sums[key], before) + self.beta for key in keys}
        return factors

    def apply(self, layer: int, row: int, weights: Tensor) -> None:
        if layer not in self.layers:
            return
        for head, by_key in enumerate(self.factors[layer, row]):
            for key, factor in by_key.items():
                weights[0, head, row, key] *= factor
            weights[0, head, row] /= weights[0, head, row].sum() + 1e-8


@torch.no_grad()
def first_pass(step, looking: Looking, n_tokens: int, ends: set[int]) -> list[list[list[float]]]:
    """What ten tokens of greedy decoding saw but for the first. `step` gives logits after the tokens so far."""
    tokens: list[int] = []
    while len(tokens) < n_tokens and not (tokens and tokens[-1] in ends):
        tokens.append(step(tokens).argmax().item())
    return [steps[1:] for steps in looking.seen]
