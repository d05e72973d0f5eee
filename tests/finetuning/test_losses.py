"""The losses of TF-HH beside their definitions over full attention maps, gradients included."""

from copy import deepcopy

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from llava_hh.attention.hooks import observe
from llava_hh.attention.modules import attention_modules
from llava_hh.finetuning.losses import IGNORED, OBJECTIVES, AttentionLoss, TargetedModel, answer_cross_entropy
from llava_hh.heads import Head, by_layer
from tests.support.tiny import IMAGE_TOKEN, llava_batch

HEADS = [Head(1, 0), Head(1, 3), Head(2, 2), Head(3, 1)]
CE_COEFF, ATTENTION_COEFF = 0.7, 2.0


@pytest.fixture(scope="module")
def training_batch():
    """Rows padded on the right: one image, two images, none; answers of several lengths, one in two parts."""
    left = llava_batch([[3, "image", 9], [2, "image", 3, "image", 7], [8]])
    ids, real = left.inputs["input_ids"], left.real
    rows = [torch.roll(row, -int((~here).sum())) for row, here in zip(ids, real, strict=True)]
    left.inputs["input_ids"] = torch.stack(rows)
    left.inputs["attention_mask"] = torch.arange(ids.shape[1])[None].expand_as(ids).lt(real.sum(1)[:, None]).long()
    left.image_mask = left.inputs["input_ids"] == IMAGE_TOKEN
    labels = torch.full_like(ids, IGNORED)
    for row, (first, last) in enumerate(((9, 16), (16, 20), (3, 8))):
        labels[row, first:last] = left.inputs["input_ids"][row, first:last]
    labels[0, 12] = IGNORED
    return left, labels


def definition(model, batch, labels, objective):
    """Both losses by loops over eager maps; counts are those of the batch."""
    model.config.get_text_config()._attn_implementation = "eager"
    outputs = model(**batch.inputs, output_attentions=True)
    layers = []
    for layer, heads in by_layer(HEADS).items():
        values = []
        for head in heads:
            for row, position in (labels != IGNORED).nonzero().tolist():
                image = batch.image_mask[row]
                if not image.any():
                    continue
                attention = outputs.attentions[layer][row, head, position]
                on_image, on_text = attention[image].sum(), attention[~image].sum()
                values.append(
                    {
                        "minimize_txt": (on_text + 1e-8).log(),
                        "maximize_img": -(on_image + 1e-8).log(),
                        "maximize_entropy": on_image * (on_image + 1e-8).log() + on_text * (on_text + 1e-8).log(),
                    }[objective]
                )
        layers.append(torch.stack(values).mean())
    ce = cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
    return CE_COEFF * ce + ATTENTION_COEFF * torch.stack(layers).mean()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_and_gradients_equal_the_definition(llava, training_batch, objective, checkpointing):
    batch, labels = training_batch
    plain, ours = deepcopy(llava), deepcopy(llava).train()
    expected = definition(plain, batch, labels, objective)
    expected.backward()
    if checkpointing:
        ours.activation_checkpointing_enable({"use_reentrant": False})
    attention = AttentionLoss(objective)
    counts = torch.tensor([(labels != IGNORED).sum(), (labels[:2] != IGNORED).sum()])
    calls = []
    with observe(ours, HEADS, lambda *call: (calls.append(call[0]), attention(*call))):
        result = TargetedModel(ours, attention, CE_COEFF, ATTENTION_COEFF)(
            batch.inputs, batch.image_mask, labels, counts
        )
        assert_close(result["loss"], expected, atol=1e-5, rtol=0)
        result["loss"].backward()
    assert len(calls) == (6 if checkpointing else 3)  # recomputed once
    for layer in range(4):
        for name in ("q_proj", "k_proj"):
            gradient = getattr(attention_modules(ours)[layer], name).weight.grad
            assert_close(gradient, getattr(attention_modules(plain)[layer], name).weight.grad, atol=1e-5, rtol=0)
    assert_close(ours.lm_head.weight.grad, plain.lm_head.weight.grad, atol=1e-5, rtol=0)


@torch.no_grad()
def test_masses_are_means_over_heads_and_answer_rows(llava, training_batch):
    batch, labels = training_batch
    plain = deepcopy(llava)
    plain.config.get_text_config()._attn_implementation = "eager"
    maps = plain(**batch.inputs, output_attentions=True).attentions
    image, after = [], []
    for layer, head in HEADS:
        for row, position in (labels[:2] != IGNORED).nonzero().tolist():
            attention, mask = maps[layer][row, head, position], batch.image_mask[row]
            image.append(attention[mask].sum())
            after.append(attention[int(mask.nonzero().max()) + 1 :].sum())
    attention = AttentionLoss()
    attention.start(batch.image_mask, labels)
    with observe(llava, HEADS, attention):
        llava(**batch.inputs)
    assert_close(torch.stack(attention.masses(len(image) // len(HEADS))), torch.tensor([image, after]).mean(1))


def test_text_only_samples_are_in_the_cross_entropy_alone(llava):
    batch = llava_batch([[8], [5]])
    labels = torch.where(batch.real, batch.inputs["input_ids"], IGNORED)
    labels[:, :3] = IGNORED
    attention = AttentionLoss()
    counts = torch.tensor([(labels != IGNORED).sum(), 0])
    with observe(llava, HEADS, attention):
        result = TargetedModel(llava, attention, 1.0, 2.0)(batch.inputs, batch.image_mask, labels, counts)
    assert result["attention_loss"] == 0 and result["image_mass"] == 0
    assert result["loss"] == result["ce"] > 1


def test_cross_entropy_of_the_last_positions(llava, training_batch):
    batch, labels = training_batch
    logits = llava(**batch.inputs).logits.detach()
    n = int((labels != IGNORED).sum())
    whole = answer_cross_entropy(logits, labels, n)
    assert_close(whole, llava(**batch.inputs, labels=labels).loss.detach())
    first = int((labels != IGNORED).any(0).nonzero()[0])
    assert_close(answer_cross_entropy(logits[:, first - 1 :], labels, n), whole)
    assert answer_cross_entropy(logits, torch.full_like(labels, IGNORED), 0) == 0


def test_an_unknown_objective():
    with pytest.raises(ValueError, match="expected one of: minimize_txt, maximize_img, maximize_entropy"):
        AttentionLoss("maximise")
