import math

import pytest
import torch

from llava_hh.attention.modules import decoder_layers
from llava_hh.baselines import memvr
from llava_hh.baselines.memvr import MemvrSettings
from tests.support.decoding import (
    as_batch,
    as_lvlm,
    assert_ends_and_suppressed_ids,
    double,
    eight_rows,
    forward,
    generated,
    single_rows,
    slow_decode,
)
from tests.support.tiny import IMAGE_TOKEN
from tests.support.tiny_minigpt4 import also_of_minigpt4

N_TOKENS = 4
STRONG = [MemvrSettings(0.7, 0.0, (1, 2)), MemvrSettings(0.6, 0.985, (0, 2)), MemvrSettings(0.9, 0.8, (2, 2))]


def decode(model, batch, settings):
    return memvr.decode(as_lvlm(model), as_batch(batch), settings, N_TOKENS)


class Again:
    """One row, uncached: each forward of the cached run is a segment, which looks again in a layer of its own."""

    def __init__(self, model, alone, settings):
        self.model, self.alone, self.settings = model, alone, settings
        self.start, self.layers = alone.image_mask.shape[1], range(settings.layers[0], settings.layers[1] + 1)
        self.chosen: list[int | None] = []  # by segment, the unsure layer
        self.features = None

    def segments(self):
        yield slice(0, self.start), self.chosen[0]
        for number, layer in enumerate(self.chosen[1:]):
            yield slice(self.start + number, self.start + number + 1), layer

    def logits(self, answer):
        self.chosen.append(None)
        hooks = [decoder_layers(self.model)[0].register_forward_pre_hook(self.see, with_kwargs=True)]
        for layer in self.layers:
            ask = lambda _, args, output, layer=layer: self.ask(layer, output)  # noqa: E731
            look = lambda _, args, output, layer=layer: self.look(layer, args[0], output)  # noqa: E731
            hooks.append(decoder_layers(self.model)[layer].register_forward_hook(ask))
            hooks.append(decoder_layers(self.model)[layer + 1].mlp.register_forward_hook(look))
        logits = forward(self.model, self.alone, answer).logits[0, -1]
        for hook in hooks:
            hook.remove()
        logits[IMAGE_TOKEN] = -torch.inf
        return logits

    def see(self, _, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        self.features = hidden[0, : self.start][self.alone.image_mask[0]]

    def ask(self, layer, output):
        hidden = (output[0] if isinstance(output, tuple) else output)[0, -1]
        top = sorted(self.model.lm_head(self.model.get_decoder().norm(hidden)).tolist(), reverse=True)[:10]
        shares = [math.exp(value - top[0]) for value in top]
        shares = [share / sum(shares) for share in shares]
        entropy = -sum(share * math.log(share) for share in shares if share) / math.log(10)
        if self.chosen[-1] is None and entropy > self.settings.unsure and len(self.features):
            self.chosen[-1] = layer

    def look(self, layer, inputs, output):
        output = output.clone()
        for rows, chosen in self.segments():
            if chosen == layer:
                found = inputs[0, rows] @ self.features.T @ self.features
                own = output[0, rows]
                scale = own.abs().mean() / found.abs().mean()
                output[0, rows] = (1 - self.settings.ratio) * own + self.settings.ratio * scale * found
        return output


@also_of_minigpt4
@torch.no_grad()
@pytest.mark.parametrize("settings", STRONG)
def test_tokens_follow_from_whole_passes(llava, settings):
    model, batch, again = double(llava), eight_rows(torch.float64), {}

    def choose(row, alone, answer):
        logits = again.setdefault(row, Again(model, alone, settings)).logits(answer)
        return logits.argmax().item()

    rows = decode(model, batch, settings)
    assert rows == slow_decode(model, batch, N_TOKENS, choose)
    assert rows != generated(model, batch, N_TOKENS)
    chosen = {layer for each in again.values() for layer in each.chosen}
    if settings.unsure == 0:
        assert chosen == {settings.layers[0], None}  # the first one, always; None without an image
    elif settings.layers == (0, 2):
        assert len(chosen - {None}) > 1  # rows look in layers of their own


@pytest.mark.parametrize("settings", [MemvrSettings(0, 0, (1, 2)), MemvrSettings(0.9, 1, (1, 2))])
def test_nothing_is_greedy(llava, settings):
    hooks = [{*layer._forward_hooks, *layer.mlp._forward_hooks} for layer in decoder_layers(llava)]
    assert decode(llava, eight_rows(), settings) == generated(llava, eight_rows(), N_TOKENS)
    assert hooks == [{*layer._forward_hooks, *layer.mlp._forward_hooks} for layer in decoder_layers(llava)]


@pytest.mark.parametrize("settings", STRONG)
def test_a_batch_equals_its_rows(llava, settings):
    batch = eight_rows()
    assert decode(llava, batch, settings) == [decode(llava, row, settings)[0] for row, _ in single_rows(batch)]
    assert_ends_and_suppressed_ids(llava, lambda rows: decode(llava, rows, settings))


def test_what_cannot_be_is_one_line(llava):
    with pytest.raises(ValueError, match="MemVR looks again in the layer after 3, which is the last"):
        decode(llava, eight_rows(), MemvrSettings(layers=(1, 3)))
    with pytest.raises(ValueError, match="MemVR asks layers 2 to 8; the model has 0 to 3"):
        decode(llava, eight_rows(), MemvrSettings(layers=(2, 8)))
    with pytest.raises(ValueError, match="ratio must be from 0 to 1, not 2"):
        MemvrSettings(ratio=2)
