"""Influence by source against an eager recomputation: a whole forward per head and source, weights times values."""

import pytest
import torch
from torch.testing import assert_close

from llava_hh.attention.modules import attends_to_image_alone, attention_modules, switch_attention
from llava_hh.attribution.ablation import ablate_every_head
from llava_hh.attribution.sources import SOURCES
from llava_hh.heads import Head
from llava_hh.models.lvlm import load_lvlm
from tests.support.ablation_cases import TOKENS, llama_case, llava_case, padded_llava_case
from tests.support.questions import IMAGES, QUESTIONS, SHOWN
from tests.support.tiny_newer import FAMILIES, save_tiny_family

IMAGE = 120  # the image's token in the plain cases
THREE = ("image", "after", "answer")


def plain(case):
    """A case without a checkpoint: model, inputs, positions, image positions, first position of the answer."""
    model, inputs, positions = case()
    return model, inputs, positions, inputs["input_ids"][0] == IMAGE, positions[0] + 1


def of_family(name, folder):
    """An answer of four tokens to a question with an image; Chameleon's question stands before it as well."""
    save_tiny_family(name, folder)
    lvlm = load_lvlm(folder)
    image = (SHOWN if lvlm.model.config.model_type == "mllama" else IMAGES)[0]
    batch = lvlm.encode([image], QUESTIONS[:1], [[30, 41, 52, 33]])
    start = batch.response_start[0]
    return lvlm.model, batch.inputs, [start - 1, start + 2], batch.image_mask[0], start


@pytest.fixture(params=["llama", "llava", "padded", "question first", *FAMILIES])
def case(request, tmp_path):
    match request.param:
        case "llama":
            return plain(llama_case)
        case "llava":
            return plain(llava_case)
        case "padded":
            return plain(padded_llava_case)
        case "question first":
            model, inputs, _ = llama_case()
            mask = torch.zeros(TOKENS.shape[1], dtype=torch.bool)
            mask[9:13] = mask[14] = True
            return model, inputs, [16, 23], mask, 17
    return of_family(request.param, tmp_path / request.param)


def source_of(key, query, image_mask, answer_start, of_image_alone):
    """By plain comparisons, one key at a time."""
    shown = image_mask.nonzero()[:, 0].tolist()
    if of_image_alone:
        return "image"
    if key == query:
        return "self"
    if key >= answer_start:
        return "answer"
    if key in shown:
        return "image"
    return "after" if shown and key > shown[-1] else "before"


@torch.no_grad()
def watched(model, inputs):
    """By layer: attention weights (head, query, key) and values of the query heads (head, key, d_head), eagerly."""
    weights, values, handles = {}, {}, []
    n_heads = model.config.get_text_config().num_attention_heads
    for layer, module in attention_modules(model).items():
        d_head = module.o_proj.in_features // n_heads
        handles.append(module.register_forward_hook(lambda _, args, out, at=layer: weights.update({at: out[1][0]})))

        def keep(_, args, out, at=layer, d_head=d_head):
            heads = out.flatten(0, 1).unflatten(-1, (-1, d_head)).transpose(0, 1)
            values[at] = heads.repeat_interleave(n_heads // len(heads), 0)

        handles.append(module.v_proj.register_forward_hook(keep))
    with switch_attention(model, "eager"):
        model(**inputs)
    for handle in handles:
        handle.remove()
    return weights, values


@torch.no_grad()
def recomputed(model, inputs, positions, targets, image_mask, answer_start, sources, renormalise=False):
    """Log-probabilities (source, target, layer, head) by a whole forward each, and the shares of attention."""
    weights, values = watched(model, inputs)
    n_heads = model.config.get_text_config().num_attention_heads
    found = torch.empty(2, len(sources), len(positions), len(weights), n_heads)
    for layer, module in attention_modules(model).items():
        alone = attends_to_image_alone(module)
        width = module.o_proj.in_features // n_heads
        for row, (position, target) in enumerate(zip(positions, targets, strict=True)):
            n_keys = weights[layer].shape[-1] if alone else position + 1
            of_key = [source_of(key, position, image_mask, answer_start, alone) for key in range(n_keys)]
            for head in range(n_heads):
                for number, source in enumerate(sources):
                    kept = weights[layer][head, position, :n_keys].clone()
                    lost = torch.tensor([each == source for each in of_key])
                    found[1, number, row, layer, head] = kept[lost].sum()
                    kept[lost] = 0
                    if renormalise:
                        kept = kept / kept.sum() if kept.sum() >= 1e-6 else kept * 0
                    z = kept @ values[layer][head, :n_keys]

                    def edit(_, args, position=position, z=z, part=slice(head * width, (head + 1) * width)):
                        changed = args[0].clone()
                        changed[0, position, part] = z
                        return (changed,)

                    handle = module.o_proj.register_forward_pre_hook(edit)
                    logits = model(**inputs).logits[0, position]
                    handle.remove()
                    found[0, number, row, layer, head] = logits.log_softmax(-1)[target]
    return found


@pytest.mark.parametrize("renormalise", [False, True])
def test_equals_an_eager_pass_per_head_and_source(case, renormalise):
    model, inputs, positions, image_mask, start = case
    targets = [37 + 5 * row for row in range(len(positions))]
    asked = {"sources": SOURCES, "image_mask": image_mask, "answer_start": start, "renormalise": renormalise}
    ours = ablate_every_head(model, inputs, positions, targets, **asked)
    expected, shares = recomputed(model, inputs, positions, targets, image_mask, start, SOURCES, renormalise)
    assert_close(ours.without, expected, atol=1e-5, rtol=1e-4)
    assert_close(ours.share, shares, atol=1e-6, rtol=1e-4)
    assert_close(ours.share.sum(0), torch.ones_like(ours.clean[:, None, None].expand(ours.heads.shape)))
    # each source of which there is some matters more than the tolerance
    matters = (ours.without - ours.clean[:, None, None]).abs() > 2e-5
    assert matters[ours.share > 0.02].float().mean() > 0.9
    plain = ablate_every_head(model, inputs, positions, targets)
    assert_close(ours.heads, plain.heads, atol=1e-5, rtol=0)
    assert_close(ours.clean, plain.clean, atol=1e-5, rtol=0)


def test_a_head_that_loses_all_sources_is_the_head_zeroed(case):
    model, inputs, positions, image_mask, start = case
    targets = [37 + 5 * row for row in range(len(positions))]
    asked = {"sources": ["+".join(SOURCES), "after+answer+self"], "image_mask": image_mask, "answer_start": start}
    for renormalise in (False, True):
        ours = ablate_every_head(model, inputs, positions, targets, renormalise=renormalise, **asked)
        assert_close(ours.without[0], ours.heads, atol=1e-5, rtol=0)
    assert_close(ours.share[0], torch.ones_like(ours.heads))
    single = ablate_every_head(model, inputs, positions, targets, **asked | {"sources": SOURCES})
    assert_close(ours.share[1], single.share[2:].sum(0), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("max_rows", "modules"), [(17, False), (19, True), (40, False), (75, True)])
def test_some_heads_some_sources_and_few_rows(max_rows, modules):
    model, inputs, positions, image_mask, start = plain(llava_case)
    asked = {"image_mask": image_mask, "answer_start": start}
    whole = ablate_every_head(model, inputs, positions, [9, 8, 7], sources=SOURCES, modules=True, **asked)
    seen = []
    for attention in attention_modules(model).values():
        attention.o_proj.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    heads = [Head(3, 1), Head(0, 2), Head(3, 3), Head(2, 0)]
    asked |= {"sources": ("answer", "image", "after"), "heads": heads, "modules": modules, "max_rows": max_rows}
    some = ablate_every_head(model, inputs, positions, [9, 8, 7], **asked)
    assert max(seen) <= max_rows
    layers, places = zip(*heads, strict=True)
    for name in ("without", "share"):
        expected = torch.full_like(getattr(some, name), torch.nan)
        of_whole = getattr(whole, name)[[SOURCES.index(source) for source in asked["sources"]]]
        expected[:, :, layers, places] = of_whole[:, :, layers, places]
        assert_close(getattr(some, name), expected, atol=1e-5, rtol=0, equal_nan=True)
    if modules:
        assert_close(some.mha, whole.mha, atol=1e-5, rtol=0)
        assert_close(some.mlp, whole.mlp, atol=1e-5, rtol=0)


def test_what_is_refused():
    model, inputs, positions, image_mask, start = plain(llava_case)
    given = (model, inputs, positions, [9, 8, 7])
    with pytest.raises(ValueError, match="no source 'picture'; expected some of before, image, after, answer, self"):
        ablate_every_head(*given, sources=("picture",), image_mask=image_mask, answer_start=start)
    with pytest.raises(ValueError, match="a source is named twice: image, image"):
        ablate_every_head(*given, sources=("image", "image"), image_mask=image_mask, answer_start=start)
    with pytest.raises(ValueError, match="sources need image_mask and answer_start"):
        ablate_every_head(*given, sources=THREE)
    with pytest.raises(ValueError, match=r"image_mask must be \(position,\) bool"):
        ablate_every_head(*given, sources=THREE, image_mask=image_mask[None], answer_start=start)
    with pytest.raises(ValueError, match="need at least 1 \\+ 16 rows"):
        ablate_every_head(*given, sources=THREE, image_mask=image_mask, answer_start=start, max_rows=16)
