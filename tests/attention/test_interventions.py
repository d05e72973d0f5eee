import dataclasses
from copy import deepcopy

import pytest
import torch
from torch.testing import assert_close

from llava_hh.attention.hooks import intervene
from llava_hh.attention.interventions import BoostImageScores, DeactivateText, ScaleAttention, ZeroHeads
from llava_hh.attention.layer_edits import SuppressBlindHeads
from llava_hh.attention.modules import attention_modules
from llava_hh.attention.sinks import ShareDensestMap
from llava_hh.heads import Head
from tests.support.eager_edits import eager_edits
from tests.support.interventions import HEADS, INTERVENTIONS
from tests.support.tiny import D_HEAD, decode_steps, draw_tokens, llava_batch

N_STEPS = 8
close = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(params=INTERVENTIONS)
def interventions(request):
    return INTERVENTIONS[request.param]


def some_fire(trace) -> bool:
    fired = sum(counts.fired for counts in trace.fired.values())
    return 0 < fired < sum(counts.decided for counts in trace.fired.values())


def as_pairs(counts):
    return {tuple(head): tuple(count) for head, count in counts.items()}


def counted(editor):
    return {head: (editor.fired[head], editor.decided[head]) for head in editor.decided}


@torch.no_grad()
def test_prefill_equals_loops_over_eager_maps(llava, batch, interventions):
    plain = llava(**batch.inputs).logits
    with intervene(llava, batch.image_mask, interventions) as trace:
        fused = llava(**batch.inputs).logits
    with eager_edits(llava, batch.image_mask, interventions) as editor:
        eager = llava(**batch.inputs).logits
    assert_close(fused[batch.real], eager[batch.real], **close)
    assert (fused - plain).abs().max() > 0.01
    # heads with a decision: the third row has no image, the fourth no key after it
    assert {head: counts for head, counts in as_pairs(trace.fired).items() if counts[1]} == counted(editor)


@torch.no_grad()
def test_cached_steps_equal_loops_over_eager_maps(llava, batch, interventions):
    plain = decode_steps(llava, batch, N_STEPS)
    with intervene(llava, batch.image_mask, interventions) as trace:
        fused = decode_steps(llava, batch, N_STEPS)
    with eager_edits(llava, batch.image_mask, interventions) as editor:
        eager = decode_steps(llava, batch, N_STEPS, tokens=fused.argmax(-1))
    assert_close(fused, eager, **close)
    assert (fused - plain).abs().max() > 0.01
    assert as_pairs(trace.fired) == counted(editor)
    if trace.fired:
        assert some_fire(trace)
    in_every_row = SuppressBlindHeads | ShareDensestMap  # or in the prompt's last row alone
    if trace.fired and not any(isinstance(each, in_every_row) for each in interventions):
        decided = {counts.decided for counts in trace.fired.values()}
        assert decided == {N_STEPS + N_STEPS + N_STEPS - 1}  # rows 1 and 2; row 4 from its first step on


@torch.no_grad()
def test_zeroing_equals_zeroed_output_columns(llava, batch):
    edited = deepcopy(llava)
    for layer, head in HEADS:
        attention_modules(edited)[layer].o_proj.weight[:, head * D_HEAD : (head + 1) * D_HEAD] = 0
    with intervene(llava, batch.image_mask, [ZeroHeads(HEADS)]):
        assert_close(llava(**batch.inputs).logits[batch.real], edited(**batch.inputs).logits[batch.real], **close)


@torch.no_grad()
def test_heads_combine_the_same_in_any_order(gqa_llava, batch):
    results = []
    for interventions in (INTERVENTIONS["all"], INTERVENTIONS["all"][::-1]):
        with intervene(gqa_llava, batch.image_mask, interventions):
            results.append(gqa_llava(**batch.inputs).logits)
    assert_close(*results, **close)


@torch.no_grad()
@pytest.mark.parametrize(
    "interventions",
    [
        [],
        [ScaleAttention(HEADS, 1.0), ScaleAttention(HEADS, 1.0, "image")],
        [ScaleAttention(HEADS, (1.0,) * 4)],
        [BoostImageScores(HEADS, 0)],
        [DeactivateText(HEADS, threshold=1.0)],
    ],
)
def test_an_edit_that_changes_nothing_changes_no_bit(llava, batch, interventions):
    plain, steps = llava(**batch.inputs).logits, decode_steps(llava, batch, 3)
    for starts in (None, [batch.image_mask.shape[1] - 2] * len(batch.image_mask)):
        with intervene(llava, batch.image_mask, interventions, starts) as trace:
            assert torch.equal(llava(**batch.inputs).logits, plain)
            assert torch.equal(decode_steps(llava, batch, 3), steps)
        assert not any(counts.fired for counts in trace.fired.values())


@torch.no_grad()
def test_rows_without_an_image_keep_every_bit(llava, batch):
    plain = llava(**batch.inputs).logits
    edits = [DeactivateText(HEADS, 0.0), ScaleAttention(HEADS, 0.5), ScaleAttention(HEADS, 2.0, "image")]
    edits.append(BoostImageScores(HEADS, 0.5))
    with intervene(llava, batch.image_mask, edits):
        edited = llava(**batch.inputs).logits
    assert torch.equal(edited[2], plain[2])
    assert not torch.equal(edited[0, -1], plain[0, -1])


@torch.no_grad()
def test_a_boost_edits_the_last_row_alone(llava, batch):
    """In its first layer only the last query row changes; the fourth row's image ends the prompt."""
    plain = llava(**batch.inputs).logits
    with intervene(llava, batch.image_mask, [BoostImageScores([Head(3, 1)], 2.0)]):
        boosted = llava(**batch.inputs).logits
    assert torch.equal(boosted[:, :-1], plain[:, :-1])
    assert [not torch.equal(*rows) for rows in zip(boosted[:, -1], plain[:, -1], strict=True)] == [
        True,
        True,
        False,
        True,
    ]


@torch.no_grad()
def test_a_batch_equals_its_rows_alone(llava):
    rows = [[3, "image", 6], [7, "image", 2, "image", 4]]
    together = llava_batch(rows)
    edits = [DeactivateText(HEADS, 0.5), ScaleAttention([Head(0, 2)], 0.3)]
    with intervene(llava, together.image_mask, edits):
        both = decode_steps(llava, together, N_STEPS)
    pixels = together.inputs["pixel_values"].split([1, 2])
    for row, image in enumerate(pixels):
        real = together.real[row]
        alone = deepcopy(together)
        alone.inputs = {key: value[row : row + 1, real] for key, value in together.inputs.items() if value.dim() == 2}
        alone.inputs["pixel_values"] = image
        alone.image_mask = together.image_mask[row : row + 1, real]
        with intervene(llava, alone.image_mask, edits):
            assert_close(decode_steps(llava, alone, N_STEPS)[0], both[row], **close)


@torch.no_grad()
@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.6])
def test_response_rows_of_one_pass_equal_cached_steps(llava, batch, threshold):
    """The claim of `DeactivateText`, on the whole model: teacher forcing in one pass against decoding step by step."""
    answers = draw_tokens(4 * N_STEPS, torch.Generator().manual_seed(3)).view(4, N_STEPS)
    with intervene(llava, batch.image_mask, [DeactivateText(HEADS, threshold)]) as stepwise:
        steps = decode_steps(llava, batch, N_STEPS, tokens=answers)
    start = batch.image_mask.shape[1]
    forced = deepcopy(batch.inputs)
    forced["input_ids"] = torch.cat([forced["input_ids"], answers[:, :-1]], 1)
    forced["attention_mask"] = torch.nn.functional.pad(forced["attention_mask"], (0, N_STEPS - 1), value=1)
    forced["position_ids"] = (forced["attention_mask"].cumsum(1) - 1).clamp(min=0)
    edits = [DeactivateText(HEADS, threshold)]
    whole = torch.nn.functional.pad(batch.image_mask, (0, N_STEPS - 1))
    with intervene(llava, whole, edits, response_start=[start] * 4) as trace:
        one_pass = llava(**forced).logits[:, start - 1 :]
    assert_close(one_pass, steps, **close)
    assert trace.fired == stepwise.fired
    assert some_fire(trace) or threshold == 0
    with eager_edits(llava, batch.image_mask, edits, [start] * 4):
        assert_close(llava(**forced).logits[:, start - 1 :], steps, **close)
    with intervene(llava, batch.image_mask, edits) as trace:  # what lies behind image_mask is the answer
        assert torch.equal(llava(**forced).logits[:, start - 1 :], one_pass)
    assert trace.fired == stepwise.fired


@torch.no_grad()
def test_each_row_has_its_own_response_start(gqa_llava, batch):
    edits, starts = [DeactivateText(HEADS, 0.3)], [14, 12, 3, 15]
    with intervene(gqa_llava, batch.image_mask, edits, torch.tensor(starts)) as trace:
        fused = gqa_llava(**batch.inputs).logits
    with eager_edits(gqa_llava, batch.image_mask, edits, starts) as editor:
        eager = gqa_llava(**batch.inputs).logits
    assert_close(fused[batch.real], eager[batch.real], **close)
    assert {head: counts for head, counts in as_pairs(trace.fired).items() if counts[1]} == counted(editor)
    assert some_fire(trace)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ZeroHeads([]), "ZeroHeads needs at least one head"),
        (lambda: DeactivateText([]), "DeactivateText needs at least one head"),
        (lambda: DeactivateText(HEADS, threshold=1.2), r"threshold must lie in \[0, 1\], not 1.2"),
        (lambda: DeactivateText(HEADS, threshold=float("nan")), r"threshold must lie in \[0, 1\], not nan"),
        (lambda: ScaleAttention(HEADS, alpha=-0.1), "alpha must be .* at least 0, not -0.1"),
        (lambda: ScaleAttention(HEADS, alpha=(1.0, -0.1)), "alpha must be .* at least 0, not -0.1"),
        (lambda: BoostImageScores([], 0.5), "BoostImageScores needs at least one head"),
        (lambda: BoostImageScores(HEADS, -0.5), "alpha must be .* at least 0, not -0.5"),
        (lambda: ScaleAttention(HEADS, alpha=1.0, span="text"), "span must be 'after_image' or 'image', not 'text'"),
    ],
)
def test_wrong_settings_are_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_interventions_are_values():
    listed = ZeroHeads([[1, 2], (0, 3)])
    assert listed.heads == (Head(1, 2), Head(0, 3)) and listed == ZeroHeads([Head(1, 2), Head(0, 3)])
    assert str(listed.heads[0]) == "L1H2"
    with pytest.raises(dataclasses.FrozenInstanceError):
        listed.heads = ()
