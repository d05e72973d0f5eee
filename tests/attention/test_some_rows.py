"""Interventions on some rows of a batch: the others keep every bit. And attribution is of models without any."""

from copy import deepcopy

import pytest
import torch
from torch.testing import assert_close

from llava_hh.attention.hooks import intervene, record
from llava_hh.attention.interventions import DeactivateText, ScaleAttention, ZeroHeads
from llava_hh.attention.layer_edits import SuppressBlindHeads
from llava_hh.attention.sinks import RecycleSinks, ShareDensestMap
from llava_hh.attribution.ablation import ablate_every_head
from llava_hh.heads import Head
from tests.support.interventions import HEADS, INTERVENTIONS
from tests.support.tiny import decode_steps, llava_batch, tiny_mllama

ROWS = (True, False, True, True)
EDITS = INTERVENTIONS | {"deactivate": [DeactivateText(HEADS, 0.2)]}  # so low that it fires on every row
KEPT = [row for row, is_edited in enumerate(ROWS) if not is_edited]
EDITED = [row for row, is_edited in enumerate(ROWS) if is_edited]


@torch.no_grad()
@pytest.mark.parametrize("kind", EDITS)
def test_other_rows_keep_every_bit_and_take_no_decisions(llava, batch, kind):
    edits = EDITS[kind]
    plain, plain_steps = llava(**batch.inputs).logits, decode_steps(llava, batch, 4)
    with intervene(llava, batch.image_mask, edits):
        everywhere = llava(**batch.inputs).logits
    with intervene(llava, batch.image_mask, edits, on_rows=ROWS):
        some = llava(**batch.inputs).logits
    with intervene(llava, batch.image_mask, edits, on_rows=torch.tensor(ROWS)) as trace:
        steps = decode_steps(llava, batch, 4, tokens=plain_steps.argmax(-1))
    with intervene(llava, batch.image_mask, edits) as trace_of_all:
        steps_everywhere = decode_steps(llava, batch, 4, tokens=plain_steps.argmax(-1))
    assert torch.equal(some[KEPT], plain[KEPT]) and torch.equal(steps[KEPT], plain_steps[KEPT])
    assert torch.equal(some[EDITED], everywhere[EDITED]) and torch.equal(steps[EDITED], steps_everywhere[EDITED])
    assert not torch.equal(everywhere[KEPT], plain[KEPT])
    steps_of = {DeactivateText: 4, SuppressBlindHeads: 4, RecycleSinks: 4, ShareDensestMap: 1}
    for head, (_, decided) in trace.fired.items():  # those of the row that is left out are lacking
        n_lacking = sum(steps_of.get(type(edit), 0) for edit in edits if head in edit.heads)
        assert decided == trace_of_all.fired[head].decided - n_lacking


@torch.no_grad()
@pytest.mark.parametrize("kind", ["zero", "deactivate", "less text", "a factor per row", "all"])
def test_beams_of_other_rows_keep_every_bit(llava, batch, kind):
    """Each row stands three times in a row, as beams do."""
    edits = EDITS[kind]
    beams = deepcopy(batch)
    rows = ("input_ids", "attention_mask")
    beams.inputs |= {name: batch.inputs[name].repeat_interleave(3, 0) for name in rows}
    pixels = batch.inputs["pixel_values"].split(batch.image_mask.sum(1).div(4).int().tolist())
    beams.inputs["pixel_values"] = torch.cat([own for own in pixels for _ in range(3)])
    plain = decode_steps(llava, beams, 3)
    tokens = plain.argmax(-1)
    with intervene(llava, batch.image_mask, edits, on_rows=ROWS) as trace:
        some = decode_steps(llava, beams, 3, tokens=tokens)
    with intervene(llava, batch.image_mask, edits) as trace_of_all:
        everywhere = decode_steps(llava, beams, 3, tokens=tokens)
    is_edited = torch.tensor(ROWS).repeat_interleave(3)
    assert torch.equal(some[~is_edited], plain[~is_edited])
    assert torch.equal(some[is_edited], everywhere[is_edited])
    assert not torch.equal(everywhere[~is_edited], plain[~is_edited])
    for head, (_, decided) in trace.fired.items():
        assert decided == trace_of_all.fired[head].decided - 3 * 3


def test_generate_with_beams_edits_the_named_rows_alone(llava, batch):
    settings = {"max_new_tokens": 6, "do_sample": False, "num_beams": 3}
    edits = [DeactivateText(HEADS, 0.3), ScaleAttention([Head(0, 0)], 3.0, "image")]
    plain = llava.generate(**batch.inputs, **settings)
    with intervene(llava, batch.image_mask, edits):
        everywhere = llava.generate(**batch.inputs, **settings)
    with intervene(llava, batch.image_mask, edits, on_rows=ROWS):
        some = llava.generate(**batch.inputs, **settings)
    assert torch.equal(some[KEPT], plain[KEPT]) and torch.equal(some[EDITED], everywhere[EDITED])
    assert not torch.equal(everywhere, plain)


@torch.no_grad()
def test_two_blocks_on_the_two_halves_are_one_on_all(llava, batch):
    others = tuple(not row for row in ROWS)
    with intervene(llava, batch.image_mask, INTERVENTIONS["all"]) as whole:
        expected = decode_steps(llava, batch, 4)
    with (
        intervene(llava, batch.image_mask, INTERVENTIONS["all"], on_rows=ROWS) as one,
        intervene(llava, batch.image_mask, INTERVENTIONS["all"], on_rows=others) as other,
    ):
        found = decode_steps(llava, batch, 4)
    assert_close(found, expected, atol=1e-5, rtol=0)
    for head, counts in whole.fired.items():
        halves = (one.fired[head], other.fired[head])
        assert counts == tuple(sum(count) for count in zip(*halves, strict=True))


@torch.no_grad()
def test_cross_attention_to_the_image(batch):
    model, inputs = tiny_mllama()
    image_mask = inputs["input_ids"] == model.config.image_token_id
    plain = model(**inputs).logits
    for edit in (ZeroHeads([Head(1, 0)]), ScaleAttention([Head(1, 0)], 3.0, "image")):
        with intervene(model, image_mask, [edit], on_rows=[False, True]):
            found = model(**inputs).logits
        assert torch.equal(found[0], plain[0]) and not torch.equal(found[1], plain[1])


@pytest.mark.parametrize(
    ("rows", "words"),
    [([True], "on_rows has 1 rows, image_mask has 2"), ([1, 0], "on_rows must be true or false for each row")],
)
def test_wrong_rows_are_refused(mha_llava, rows, words):
    two = llava_batch([[3, "image", 6], [2, "image", 3]])
    with pytest.raises(ValueError, match=words), intervene(mha_llava, two.image_mask, [ZeroHeads(HEADS)], on_rows=rows):
        pass


def test_attribution_of_an_edited_model_is_refused(mha_llava):
    alone = llava_batch([[3, "image", 6]])
    arguments = (mha_llava, alone.inputs, [5], [9])
    expected = ablate_every_head(*arguments)
    with record(mha_llava, alone.image_mask, mass=HEADS[:1]) as trace:
        assert torch.equal(ablate_every_head(*arguments).heads, expected.heads)
    assert [entry.shape[2] for entry in trace.mass[0]] == [alone.image_mask.shape[1]]
    refused = pytest.raises(ValueError, match="edited by an open block of intervene; attribution is of the model")
    with intervene(mha_llava, alone.image_mask, [ZeroHeads(HEADS)]):
        mha_llava(**alone.inputs)
        with refused:
            ablate_every_head(*arguments)
