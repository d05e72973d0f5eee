"""Steps of decoders by loops, each over whole uncached forwards of one row."""

import math

import torch

from llava_hh.baselines.sampling import sample_generator
from tests.support.decoding import (
    MEANS,
    SPREADS,
    forward,
)
from tests.support.tiny import (
    IMAGE_TOKEN,
    TinyBatch,
)


def probabilities(logits):
    """Softmax in plain floats, without the image token."""
    logits = [-math.inf if token == IMAGE_TOKEN else logit for token, logit in enumerate(logits.tolist())]
    total = sum(math.exp(logit - max(logits)) for logit in logits)
    return [math.exp(logit - max(logits)) / total for logit in logits]


def slow_divergence(p, q, variant):
    total = 0.0
    for token, (a, b) in enumerate(zip(p, q, strict=True)):
        if token != IMAGE_TOKEN:
            m = (a + b) / 2
            if variant == "textbook":
                total += 0.5 * a * math.log(a / m) + 0.5 * b * math.log(b / m)
            else:
                total += 0.5 * m * math.log(m / a) + 0.5 * m * math.log(m / b)
    return total if variant == "textbook" else total / len(p)


def slow_step(model, alone, answer, settings, layers):
    """The scores of one token and the layer chosen, by loops over a whole uncached forward."""
    outputs = forward(model, alone, answer, output_hidden_states=True)
    last = probabilities(outputs.logits[0, -1])
    early = {layer: probabilities(model.lm_head(outputs.hidden_states[layer][0, -1])) for layer in layers}
    chosen = max(layers, key=lambda layer: slow_divergence(last, early[layer], settings.variant))
    scores = {
        token: math.log(p) - math.log(early[chosen][token])
        for token, p in enumerate(last)
        if p and p >= settings.relative_top * max(last)
    }
    return scores, chosen


def slow_noise(pixels, sample_id, settings):
    """Pixel by pixel, the schedule as a product in plain floats."""
    kept = 1.0
    for i in range(settings.noise_step + 1):
        kept *= 1 - ((0.5e-2 - 1e-5) / (1 + math.exp(6 - 12 * i / 999)) + 1e-5)
    drawn = torch.randn(pixels.shape, generator=sample_generator(settings.seed, sample_id, "noise"))
    noised = torch.empty_like(pixels)
    for place in torch.cartesian_prod(*map(torch.arange, pixels.shape)).tolist():
        value, channel = pixels[tuple(place)].item(), place[-3]
        if settings.noise_space == "raw_unnormalized":
            value = value * SPREADS[channel] + MEANS[channel]
        noised[tuple(place)] = math.sqrt(kept) * value + math.sqrt(1 - kept) * drawn[tuple(place)].item()
    return noised


def without_image(alone):
    """The prompt written without its image tokens."""
    ids = alone.inputs["input_ids"][~alone.image_mask][None]
    return TinyBatch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, torch.zeros_like(ids).bool())
