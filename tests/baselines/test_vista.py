import pytest
import torch
from torch.testing import assert_close

from llava_hh.attention.modules import decoder_layers
from llava_hh.baselines import vista
from llava_hh.baselines.vista import VistaSettings, image_vectors
from tests.support.decoding import (
    as_batch,
    as_lvlm,
    assert_ends_and_suppressed_ids,
    double,
    eight_rows,
    forward,
    generated,
    single_rows,
)
from tests.support.slow_decoders import without_image
from tests.support.tiny import IMAGE_TOKEN, N_LAYERS
from tests.support.tiny_minigpt4 import also_of_minigpt4

N_TOKENS = 4
STRONG = [VistaSettings(1.2, 0), VistaSettings(0, 0.8, layers=(1, 2)), VistaSettings(0.8, 0.6, layers=(2, 3))]


def decode(model, batch, settings):
    return vista.decode(as_lvlm(model), as_batch(batch), settings, N_TOKENS)


def outputs_of(model, alone, answer):
    """The last position of every layer's output, and the logits, by an uncached pass."""
    seen, hooks = [], []
    for layer in decoder_layers(model):
        keep = lambda _, args, output: seen.append((output[0] if isinstance(output, tuple) else output)[0, -1])  # noqa: E731
        hooks.append(layer.register_forward_hook(keep))
    logits = forward(model, alone, answer).logits[0, -1]
    for hook in hooks:
        hook.remove()
    return seen, logits


def slow_turn(vector, strength):
    def turn(_, args, output):
        rows = []
        for x in output[0]:
            length = x.norm()
            cosine = (x @ -vector) / (length * vector.norm())
            y = strength * (1 + max(0.0, cosine.item())) * vector / vector.norm()
            mixed = x / length + y
            rows.append(length * mixed / mixed.norm())
        return torch.stack(rows)[None]

    return turn


@also_of_minigpt4
@torch.no_grad()
@pytest.mark.parametrize("settings", STRONG)
def test_tokens_follow_from_whole_passes(llava, settings):
    """Steering acts on all positions alike, so that a whole pass is a cached step."""
    llava, batch, changed = double(llava), eight_rows(torch.float64), False
    rows = decode(llava, batch, settings)
    for row, (alone, _) in enumerate(single_rows(batch)):
        hooks, answer = [], []
        if settings.strength and alone.image_mask.any():
            shown, blind = outputs_of(llava, alone, [])[0], outputs_of(llava, without_image(alone), [])[0]
            for layer, a, b in zip(decoder_layers(llava), shown, blind, strict=True):
                hooks.append(layer.mlp.register_forward_hook(slow_turn(a - b, settings.strength)))
        for token in rows[row]:
            outputs, logits = outputs_of(llava, alone, answer)
            if settings.mix:
                said = [llava.lm_head(outputs[layer]) for layer in range(settings.layers[0], settings.layers[1] + 1)]
                logits = (1 - settings.mix) * logits + settings.mix * sum(said) / len(said)
            logits[IMAGE_TOKEN] = -torch.inf
            assert logits[token] > logits.max() - 1e-4
            answer.append(token)
        for hook in hooks:
            hook.remove()
        changed |= rows[row] != generated(llava, alone, N_TOKENS)[0]
    assert changed


@torch.no_grad()
def test_vectors_are_what_the_image_adds(llava):
    batch = eight_rows()
    vectors = image_vectors(as_lvlm(llava), as_batch(batch))
    assert len(vectors) == N_LAYERS
    for row, (alone, _) in enumerate(single_rows(batch)):
        shown = outputs_of(llava, alone, [])[0]
        blind = outputs_of(llava, without_image(alone), [])[0] if alone.image_mask.any() else shown
        for layer in range(N_LAYERS):
            assert_close(vectors[layer][row], shown[layer] - blind[layer], atol=2e-5, rtol=0)


def test_turning_keeps_lengths_and_pulls_twice_what_points_away():
    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = torch.nn.Identity()

    layer, vector = Layer(), torch.tensor([[0.0, 3.0]])
    x = torch.tensor([[[0.0, 5.0], [0.0, -2.0], [4.0, 0.0]]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vista, "decoder_layers", lambda _: [layer])
        with vista.steered(layer, [vector], 0.25):
            turned = layer.mlp(x)[0]
        with vista.steered(layer, [torch.zeros(1, 2)], 0.25):
            assert_close(layer.mlp(x), x)
    assert_close(turned.norm(dim=-1), x[0].norm(dim=-1))
    assert_close(turned[0], x[0, 0])
    assert_close(turned[1], x[0, 1])  # half of its direction is taken away by 2 x 0.25; the length is given back
    assert_close(turned[2] / turned[2].norm(), torch.tensor([1.0, 0.25]) / torch.tensor([1.0, 0.25]).norm())


def test_nothing_is_greedy_and_a_batch_equals_its_rows(llava):
    batch = eight_rows()
    assert decode(llava, batch, VistaSettings(0, 0)) == generated(llava, batch, N_TOKENS)
    for settings in STRONG:
        rows = decode(llava, batch, settings)
        assert rows == [decode(llava, alone, settings)[0] for alone, _ in single_rows(batch)]
        assert_ends_and_suppressed_ids(llava, lambda own, settings=settings: decode(llava, own, settings))
    assert not any(layer.mlp._forward_hooks for layer in decoder_layers(llava))


def test_what_cannot_be_is_one_line(llava):
    with pytest.raises(
        ValueError, match=r'VISTA asks layers 4 to 3; the model has 0 to 3; name others, as layers="\[1'
    ):
        decode(llava, eight_rows(), VistaSettings())
    with pytest.raises(ValueError, match="mix must be from 0 to 1, not 2"):
        VistaSettings(mix=2)
