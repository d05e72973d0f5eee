"""Influence by source on mini: every head and source by a cached step of its own, in eager attention."""

import random

import torch
from torch.testing import assert_close

from llava_hh.attention.modules import attention_modules, switch_attention
from llava_hh.attribution.ablation import ablate_every_head
from llava_hh.attribution.sources import SOURCES
from llava_hh.mini.world import render, sample_scene
from llava_hh.models.lvlm import DESCRIBE, load_lvlm


@torch.no_grad()
def test_every_head_and_source(mini_path):
    mini = load_lvlm(mini_path)
    picture = render(sample_scene(random.Random(6), together=0.45), random.Random(7))
    text = "The image shows a kitchen with a fork and a knife."
    batch = mini.encode([picture], [DESCRIBE], [mini.tokenizer(text, add_special_tokens=False).input_ids])
    start, ids = batch.response_start[0], batch.inputs["input_ids"]
    position = start + 10
    target, image = int(ids[0, position + 1]), batch.image_mask[0].tolist()
    asked = {"sources": SOURCES, "image_mask": batch.image_mask[0], "answer_start": start}
    ours = ablate_every_head(mini.model, batch.inputs, [position], [target], direct=True, **asked)

    last = max(key for key, shown in enumerate(image) if shown)
    of_key = ["image" if image[key] else "before" if key < last else "after" for key in range(start)]
    of_key += ["answer"] * (position - start) + ["self"]
    kept, handles = {}, []
    for layer, module in attention_modules(mini.model).items():
        see, project = module.register_forward_hook, module.v_proj.register_forward_hook
        handles.append(see(lambda _, args, out, at=layer: kept.update({at: out[1][0, :, position]})))
        handles.append(project(lambda _, args, out, at=layer: kept.update({(at, "values"): out[0]})))
    with switch_attention(mini.model, "eager"):
        mini.model(**batch.inputs)
    for handle in handles:
        handle.remove()

    prefix = {**batch.inputs, "input_ids": ids[:, :position], "attention_mask": torch.ones(1, position)}
    cache = mini.model(**prefix, use_cache=True).past_key_values
    found = torch.empty(len(SOURCES), mini.n_layers, mini.n_heads)
    for layer, module in attention_modules(mini.model).items():
        values = kept[layer, "values"].unflatten(-1, (-1, mini.d_head)).transpose(0, 1)  # key_head key d_head
        for head in range(mini.n_heads):
            of_head = values[head // (mini.n_heads // len(values)), : position + 1]
            for number, source in enumerate(SOURCES):
                weights = kept[layer][head, : position + 1].clone()
                weights[[name == source for name in of_key]] = 0

                def edit(_, args, z=weights @ of_head, part=slice(head * mini.d_head, (head + 1) * mini.d_head)):
                    changed = args[0].clone()
                    changed[0, -1, part] = z
                    return (changed,)

                handle = module.o_proj.register_forward_pre_hook(edit)
                step = mini.model(input_ids=ids[:, position : position + 1], past_key_values=cache, use_cache=True)
                handle.remove()
                cache.crop(-1)
                found[number, layer, head] = step.logits[0, -1].log_softmax(-1)[target]
    assert_close(ours.without[:, 0], found, atol=1e-5, rtol=1e-5)
