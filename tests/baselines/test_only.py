import math
from dataclasses import replace

import pytest
import torch
from transformers import GraniteConfig, GraniteForCausalLM

from llava_hh.attention.modules import decoder_layers
from llava_hh.baselines import only
from llava_hh.baselines.only import OnlySettings, text_alone
from llava_hh.decoding.method import CannotDecode
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
from tests.support.eager_edits import eager_by
from tests.support.loops import pick
from tests.support.tiny import IMAGE_TOKEN, N_HEADS, text_settings, tiny_mllama
from tests.support.tiny_minigpt4 import also_of_minigpt4

N_TOKENS = 4
STRONG = [
    OnlySettings(3.0, 2.0, 0.53, 0.01, do_sample=False),
    OnlySettings(0.0, 4.0, 0.1, 0.02, do_sample=False),
    OnlySettings(5.0, 0.0, 2.0, 0.02, do_sample=False),
    OnlySettings(seed=3, distance=1.0),
]


def lvlm_of(model):
    lvlm = as_lvlm(model)
    lvlm.n_heads = N_HEADS
    return lvlm


def decode(model, batch, settings, ids=None):
    return only.decode(lvlm_of(model), as_batch(batch, ids), settings, N_TOKENS)


class FirstLayer:
    first = weights = None

    def boost(self, layer, scores):
        pass

    def edit(self, layer, weights):
        if layer == 0:
            self.weights = weights[0, :, -1].clone()


def changed_weights(weights, image):
    """(head, key) by loops: outliers of text and image are 0, then whole heads."""
    rows, ratios = weights.tolist(), []
    text = [key for key in range(len(rows[0])) if key not in image and key != 0]
    for row in rows:
        entropies = []
        for keys in (text, image):
            mean = sum(row[key] for key in keys) / max(1, len(keys))
            spread = math.sqrt(sum((row[key] - mean) ** 2 for key in keys) / max(1, len(keys) - 1))
            for key in keys:
                row[key] = 0 if row[key] > mean + spread else row[key]
            total = sum(row[key] for key in keys)
            shares = [row[key] / total if total else 0.0 for key in keys]
            entropies.append(-sum(share * math.log(share + 1e-6) for share in shares))
        ratios.append(entropies[0] / entropies[1])
    mean = sum(ratios) / len(ratios)
    return torch.tensor(
        [[0.0] * len(row) if ratio < mean else row for row, ratio in zip(rows, ratios, strict=True)],
        dtype=weights.dtype,
    )


def second_logits(model, alone, answer):
    """The logits of a whole pass, and those of the first layer's attention through the last layer's MLP."""
    seen, first = {}, FirstLayer()
    layers = decoder_layers(model)
    hooks = [layers[0].self_attn.v_proj.register_forward_hook(lambda _, args, out: seen.update(value=out[0]))]
    hooks += [layers[-1].register_forward_pre_hook(lambda _, args, kw: seen.update(x=args[0][0, -1]), with_kwargs=True)]
    keep = lambda _, args, out: seen.update(y=(out[0] if isinstance(out, tuple) else out)[0, -1])  # noqa: E731
    hooks += [layers[-1].register_forward_hook(keep)]
    with eager_by(model, first):
        logits = forward(model, alone, answer).logits[0, -1]
    for hook in hooks:
        hook.remove()
    image = alone.image_mask[0].nonzero().flatten().tolist()
    if not image:
        return logits, None
    weights = changed_weights(first.weights, image)
    width = seen["value"].shape[-1] // layers[0].self_attn.config.num_key_value_heads
    group = len(weights) * width // seen["value"].shape[-1]
    mixed = [row @ seen["value"][:, (head // group) * width :][:, :width] for head, row in enumerate(weights)]
    alone_out = layers[0].self_attn.o_proj(torch.cat(mixed))
    y = layers[-1].input_layernorm(alone_out) + 0.2 * seen["x"]
    y = y + layers[-1].mlp(layers[-1].post_attention_layernorm(y))
    norm = model.get_decoder().norm
    return logits, model.get_output_embeddings()(norm(y) + 0.5 * norm(seen["y"]))


@also_of_minigpt4
@torch.no_grad()
@pytest.mark.parametrize("settings", STRONG)
def test_tokens_follow_from_whole_passes_over_eager_maps(llava, settings):
    model, batch, kinds = double(llava), eight_rows(torch.float64), set()

    def choose(row, alone, answer):
        logits, second = second_logits(model, alone, answer)
        logits[IMAGE_TOKEN] = -torch.inf
        scores = logits.clone()
        if second is not None:
            second[IMAGE_TOKEN] = -torch.inf
            apart = (logits.softmax(-1) - second.softmax(-1)).abs().sum() >= settings.distance
            kinds.add(bool(apart))
            for token, z in enumerate(logits.tolist()):
                other = second[token].item()
                mixed = (1 + settings.differ) * z - settings.differ * other if apart else z + settings.agree * other
                scores[token] = mixed if z >= logits.max() + math.log(settings.beta) else -math.inf
        return pick(scores, settings, row, len(answer))

    rows = decode(model, batch, settings)
    assert rows == slow_decode(model, batch, N_TOKENS, choose)
    assert rows != generated(model, batch, N_TOKENS)
    if settings == STRONG[0]:
        assert kinds == {True, False}


def test_no_weights_are_greedy(llava):
    settings = OnlySettings(0.0, 0.0, do_sample=False)
    assert decode(llava, eight_rows(), settings) == generated(llava, eight_rows(), N_TOKENS)


@pytest.mark.parametrize("settings", STRONG)
def test_a_batch_equals_its_rows(llava, settings):
    batch = eight_rows()
    assert decode(llava, batch, settings) == [decode(llava, row, settings, ids)[0] for row, ids in single_rows(batch)]
    if not settings.do_sample:
        assert_ends_and_suppressed_ids(llava, lambda rows: decode(llava, rows, settings))
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in decoder_layers(llava))


def test_outliers_and_heads_by_hand():
    """One head's text is spread and stays; the other's is on one key, and it goes."""
    image = torch.tensor([[False, False, True, True, True, False, False]])
    seen = torch.tensor([[False] + [True] * 6])
    even = [0.0, 0.1, 0.1, 0.1, 0.3, 0.2, 0.2]
    peaked = [0.0, 0.3, 0.1, 0.1, 0.1, 0.4, 0.0]
    changed = text_alone(torch.tensor([[even, peaked]]), image, seen)
    assert changed[0, 0].tolist() == pytest.approx([0.0, 0.1, 0.1, 0.1, 0.0, 0.2, 0.2])
    assert changed[0, 1].tolist() == [0.0] * 7


def test_what_cannot_be_is_one_line(llava):
    model, inputs = tiny_mllama()
    with pytest.raises(CannotDecode, match="reads its image by cross-attention"):
        only.decode(lvlm_of(model), replace(as_batch(eight_rows()), inputs=inputs), OnlySettings(), 2)
    granite = GraniteForCausalLM(GraniteConfig(**text_settings(2), residual_multiplier=0.2)).eval()
    with pytest.raises(CannotDecode, match="GraniteDecoderLayer has others"):
        only.refuse_other_layers(granite)
