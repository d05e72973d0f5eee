"""Llama-3.2-Vision, Chameleon and today's families, each a random model of its real architecture in a folder."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from llava_hh.attention.hooks import intervene, observe, record
from llava_hh.attention.interventions import DeactivateText, ScaleAttention, ZeroHeads
from llava_hh.attention.modules import attention_modules, switch_attention
from llava_hh.attribution.ablation import Ablated, ablate_every_head
from llava_hh.attribution.estimate import estimate_every_head
from llava_hh.baselines import greedy
from llava_hh.decoding.method import generate_greedily
from llava_hh.finetuning.head_rows import tune_head_rows
from llava_hh.finetuning.losses import AttentionLoss, TargetedModel
from llava_hh.heads import Head
from llava_hh.models.lvlm import Batch, Lvlm, load_lvlm
from tests.support.eager_edits import eager_edits
from tests.support.questions import IMAGES, QUESTIONS, SHOWN
from tests.support.slow_ablation import assert_same, hook_output
from tests.support.tiny_newer import FAMILIES, save_tiny_family

close = {"atol": 1e-4, "rtol": 1e-4}


# which inputs go on with every token
PER_POSITION = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids", "cross_attention_mask")


@pytest.fixture(scope="module")
def lvlm_of(tmp_path_factory) -> Callable[[str], Lvlm]:
    loaded: dict[str, Lvlm] = {}

    def load(name: str) -> Lvlm:
        if name not in loaded:
            folder: Path = tmp_path_factory.mktemp("families") / name
            save_tiny_family(name, folder)
            loaded[name] = load_lvlm(folder)
        return loaded[name]

    return load


@pytest.fixture(params=FAMILIES)
def lvlm(request, lvlm_of) -> Lvlm:
    return lvlm_of(request.param)


def self_attending(lvlm: Lvlm) -> list[int]:
    """The layers that attend to the sequence; of Mllama's, the second attends to the image alone."""
    return [layer for layer in range(lvlm.n_layers) if hasattr(lvlm.decoder_layers[layer], "self_attn")]


def images_of(lvlm: Lvlm) -> list[Image.Image | None]:
    return SHOWN if lvlm.model.config.model_type == "mllama" else IMAGES


def answered(lvlm: Lvlm) -> Batch:
    """The mixed batch with answers of different lengths."""
    return lvlm.encode(images_of(lvlm), QUESTIONS, [[30, 41, 52], [33], [60, 61, 62, 63], [45, 46]])


def test_a_batch_of_mixed_images_is_captioned_as_each_alone(lvlm):
    images = images_of(lvlm)
    together = generate_greedily(lvlm, lvlm.encode(images, QUESTIONS), 6)
    alone = [
        generate_greedily(lvlm, lvlm.encode([image], [question]), 6)[0]
        for image, question in zip(images, QUESTIONS, strict=True)
    ]
    assert together == alone
    assert len({tuple(answer.token_ids) for answer in together}) == 4
    other = generate_greedily(lvlm, lvlm.encode([Image.new("RGB", (20, 12), "red")], QUESTIONS[:1]), 6)
    assert other[0] != together[0]  # the image is looked at


def test_a_row_is_what_the_processor_makes_of_it(lvlm):
    for image, question in zip(IMAGES, QUESTIONS, strict=True):
        ours = lvlm.encode([image], [question]).inputs
        if lvlm.processor.chat_template is None:
            text = f"<image>{question}" if image else question
            theirs = lvlm.processor(images=image, text=text, return_tensors="pt")
        else:
            content = [{"type": "image", "image": image}] * (image is not None) + [{"type": "text", "text": question}]
            theirs = lvlm.processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        assert ours["input_ids"].tolist() == theirs["input_ids"].tolist()
        assert set(theirs) - set(ours) <= {"batch_num_images", "mm_token_type_ids"}
        for name in ours:
            assert_close(ours[name].float(), theirs[name].float(), msg=name)
        assert ("image_grid_thw" in ours) == ("mm_token_type_ids" in ours)


@torch.no_grad()
def test_answers_given_to_the_model_are_those_it_would_speak(lvlm):
    spoken = [answer.token_ids for answer in generate_greedily(lvlm, lvlm.encode(images_of(lvlm), QUESTIONS), 6)]
    batch = lvlm.encode(images_of(lvlm), QUESTIONS, [ids[: 6 - row] for row, ids in enumerate(spoken)])
    logits = lvlm.model(**batch.inputs).logits
    logits[..., lvlm.model.generation_config.suppress_tokens] = -torch.inf
    for row, ids in enumerate(spoken):
        first = batch.response_start[row] - 1
        kept = ids[: 6 - row]
        assert logits[row, first : first + len(kept)].argmax(-1).tolist() == kept
        assert batch.inputs["input_ids"][row, first + 1 :].tolist() == kept


@torch.no_grad()
def test_attribution_equals_one_pass_per_head_and_module(lvlm):
    batch = lvlm.encode(IMAGES[:1], QUESTIONS[:1], [[30, 41, 52]])
    positions, targets = [batch.response_start[0] - 1, batch.response_start[0] + 1], [30, 52]
    ours = ablate_every_head(lvlm.model, batch.inputs, positions, targets, modules=True)
    places = [("heads", layer, head) for layer in range(lvlm.n_layers) for head in range(lvlm.n_heads)]
    places += [(kind, layer, None) for kind in ("mha", "mlp") for layer in range(lvlm.n_layers)]
    expected = torch.empty(2, 1 + len(places))
    for row, (position, target) in enumerate(zip(positions, targets, strict=True)):
        # nothing after the position matters to it, nothing before it depends on it: no cache is needed
        inputs = {
            name: value[:, : position + 1] if name in PER_POSITION else value for name, value in batch.inputs.items()
        }
        for column, place in enumerate([None, *places]):
            handle = place and hook_output(lvlm.model, *place, lambda output: output * 0)
            logits = lvlm.model(**inputs).logits[0, -1]
            expected[row, column] = logits.log_softmax(-1)[target]
            if handle:
                handle.remove()
    n_heads = lvlm.n_layers * lvlm.n_heads
    heads = expected[:, 1 : n_heads + 1].unflatten(1, (lvlm.n_layers, lvlm.n_heads))
    mha, mlp = expected[:, n_heads + 1 :].unflatten(1, (2, -1)).unbind(1)
    assert_same(ours, Ablated(expected[:, 0], heads, mha, mlp))
    assert ((heads - expected[:, 0, None, None]).abs() > 1e-4).float().mean() > 0.9


def test_estimate_is_the_slope_in_a_head(lvlm):
    batch = lvlm.encode(IMAGES[:1], QUESTIONS[:1], [[30, 41, 52]])
    _, drops = estimate_every_head(lvlm.model, batch.inputs, [batch.response_start[0] + 2], [9])
    for layer in range(lvlm.n_layers):
        log_probs = []
        for factor in (1.02, 0.98):
            handle = hook_output(lvlm.model, "heads", layer, 2, lambda output, factor=factor: output * factor)
            with torch.no_grad():
                log_probs.append(lvlm.model(**batch.inputs).logits[0, -1].log_softmax(-1)[9])
            handle.remove()
        assert_close(drops[0, layer, 2], (log_probs[0] - log_probs[1]) / 0.04, atol=2e-3, rtol=1e-2)


@torch.no_grad()
def test_deactivation_and_scaling_equal_eager(lvlm):
    model, batch, layers = lvlm.model, answered(lvlm), self_attending(lvlm)
    heads = [Head(layer, head) for layer in layers for head in (0, 3)]
    edits = [DeactivateText(heads, 0.5), ScaleAttention([Head(layers[-1], 1)], 0.3, "image")]
    plain = model(**batch.inputs).logits
    with intervene(model, batch.image_mask, edits) as trace:
        fused = model(**batch.inputs).logits
    with eager_edits(model, batch.image_mask, edits) as editor:
        eager = model(**batch.inputs).logits
    real = batch.inputs["attention_mask"].bool()
    assert_close(fused[real], eager[real], **close)
    assert {head: count.fired for head, count in trace.fired.items()} == {head: editor.fired[head] for head in heads}
    fired, decided = (sum(column) for column in zip(*trace.fired.values(), strict=True))
    shown = [image is not None for image in images_of(lvlm)]
    assert 0 < fired < decided == sum(shown) * len(heads)  # a row without an image has nothing to decide
    assert ((fused - plain).abs().amax((1, 2)) > 1e-3).tolist() == shown


@torch.no_grad()
def test_removal_equals_zeroed_columns(lvlm):
    model, batch = lvlm.model, answered(lvlm)
    heads = [Head(layer, (3 * layer + 1) % 4) for layer in range(lvlm.n_layers)]
    with intervene(model, batch.image_mask, [ZeroHeads(heads)]):
        removed = model(**batch.inputs).logits
    pruned = deepcopy(model)
    for layer, head in heads:
        attention_modules(pruned)[layer].o_proj.weight[:, head * lvlm.d_head : (head + 1) * lvlm.d_head] = 0
    real = batch.inputs["attention_mask"].bool()
    assert_close(removed[real], pruned(**batch.inputs).logits[real], **close)
    assert not torch.equal(removed, model(**batch.inputs).logits)


@torch.no_grad()
def test_recording_equals_eager(lvlm):
    model, batch = lvlm.model, answered(lvlm)
    every = [Head(layer, head) for layer in range(lvlm.n_layers) for head in range(lvlm.n_heads)]
    with record(model, batch.image_mask, mass=every, maps=every) as trace:
        model(**batch.inputs)
    with switch_attention(model, "eager"):
        attentions = model(**batch.inputs, output_attentions=True).attentions
    columns = torch.arange(batch.image_mask.shape[1])
    for layer in self_attending(lvlm):
        for row, real in enumerate(batch.inputs["attention_mask"].bool()):
            expected = attentions[layer][row][:, real]
            assert_close(trace.maps[layer][0][row][:, real], expected, **close)
            image = batch.image_mask[row]
            after = columns > columns[image].max() if image.any() else image
            by_hand = torch.stack((expected[..., image].sum(-1), expected[..., after].sum(-1)), -1)
            assert_close(trace.mass[layer][0][row][:, real], by_hand, **close)
    for layer in set(range(lvlm.n_layers)) - set(self_attending(lvlm)):
        for row, real in enumerate(batch.inputs["attention_mask"].bool()):
            assert_close(trace.maps[layer][0][row][:, real], attentions[layer][row][:, real], **close)
        mass = trace.mass[layer][0]
        assert_close(mass, torch.tensor([1.0, 0.0]).expand_as(mass), **close)


def test_targeted_losses_equal_eager(lvlm):
    images = images_of(lvlm)
    turns = [[("describe", "a dog and"), ("the cat", "the bench")], [("describe the", "a")], [("a", "the dog")]]
    batch, labels = lvlm.encode_conversations(images[:3], turns, max_length=60)
    answers = ["a dog and </s> the bench </s>", "a </s>", "the dog </s>"]
    assert [
        lvlm.tokenizer.decode(ids[own != -100]) for ids, own in zip(batch.inputs["input_ids"], labels, strict=True)
    ] == answers
    model, layers = deepcopy(lvlm.model), self_attending(lvlm)
    heads = [Head(layer, head) for layer in layers[1:] for head in (0, 3)]
    rows = (labels != -100) & batch.image_mask.any(1, keepdim=True)
    tuned = tune_head_rows(model, heads, vocabulary=False)
    attention = AttentionLoss()
    with observe(model, heads, attention):
        losses = TargetedModel(model, attention, 1.0, 1.0)(
            batch.inputs, batch.image_mask, labels, torch.stack([(labels != -100).sum(), rows.sum()])
        )
        losses["loss"].backward()
    with torch.no_grad(), switch_attention(lvlm.model, "eager"):
        outputs = lvlm.model(**batch.inputs, labels=labels, output_attentions=True)
        terms = []
        for layer, head in heads:
            text = outputs.attentions[layer][:, head].masked_fill(batch.image_mask[:, None], 0).sum(-1)
            terms.append((text[rows] + 1e-8).log().mean())
    assert_close(losses["ce"], outputs.loss, **close)
    assert_close(losses["attention_loss"], torch.stack(terms).mean(), **close)
    assert all(part.rows.grad.abs().sum() > 0 for part in tuned.values())


@torch.no_grad()
def test_decoders_step_as_generate_does(lvlm):
    batch = lvlm.encode(images_of(lvlm), QUESTIONS)
    generated = [answer.token_ids for answer in generate_greedily(lvlm, batch, 6)]
    assert greedy.decode(lvlm, batch, greedy.GreedySettings(), 6) == generated


@torch.no_grad()
def test_edits_act_in_generation_as_row_by_row(lvlm):
    heads = [Head(layer, head) for layer in self_attending(lvlm) for head in range(lvlm.n_heads)]
    edits = [DeactivateText(heads, 0.3)]
    images = images_of(lvlm)
    plain = generate_greedily(lvlm, lvlm.encode(images, QUESTIONS), 6)
    together = generate_greedily(lvlm, lvlm.encode(images, QUESTIONS), 6, edits)
    alone = [
        generate_greedily(lvlm, lvlm.encode([image], [question]), 6, edits)[0]
        for image, question in zip(images, QUESTIONS, strict=True)
    ]
    assert together == alone and together != plain


def test_chameleon_takes_the_image_where_the_question_puts_it(lvlm_of):
    lvlm = lvlm_of("chameleon")
    first, last = (lvlm.encode(IMAGES[:1], [question]) for question in ("describe a", "describe a<image>"))
    words = lvlm.tokenizer.convert_tokens_to_ids(["describe", "a", "<reserved08706>"])
    image = first.inputs["input_ids"][0, 1:12].tolist()
    assert first.inputs["input_ids"][0].tolist() == [1, *image, *words]
    assert last.inputs["input_ids"][0].tolist() == [1, *words[:2], *image, words[2]]
    for images, question in (([None], "a<image>"), (IMAGES[:1], "<image>a<image>")):
        with pytest.raises(ValueError, match="holds <image> . times; this row has"):
            lvlm.encode(images, [question])


def test_what_a_family_cannot_do_is_said(lvlm_of):
    mllama = lvlm_of("mllama")
    with pytest.raises(ValueError, match="rows with and without an image in one batch"):
        mllama.encode(IMAGES, QUESTIONS)
    with pytest.raises(ValueError, match="L1H2 attends to the image alone"):
        tune_head_rows(deepcopy(mllama.model), [(0, 1), (1, 2)], vocabulary=False)
    with pytest.raises(ValueError, match="holds <.image_pad.>; the image is put there"):
        lvlm_of("qwen3_vl").encode(IMAGES[:1], ["describe <|image_pad|>"])
