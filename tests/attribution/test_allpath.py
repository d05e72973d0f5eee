"""AllPath's rankings of heads: against one head at a time, by loops; from captions to the method that reads them."""

import json
import math

import numpy as np
import pytest
import torch

from llava_hh.attention.modules import attention_modules
from llava_hh.attribution.allpath import image_attention, text_scores
from llava_hh.data.coco_shapes import load_shapes, touched_cells
from llava_hh.decoding.making import Material
from llava_hh.decoding.reading import method_of
from llava_hh.models.image_grid import ImageGrid
from llava_hh.models.lvlm import load_lvlm
from llava_hh.scripts import attribute, caption, score
from tests.support.questions import IMAGES, QUESTIONS
from tests.support.tiny import D_HEAD, N_HEADS


@torch.no_grad()
def test_scores_equal_two_softmaxes_a_head(llava, batch):
    one = {name: rows[:1] for name, rows in batch.inputs.items()}
    one["pixel_values"] = batch.inputs["pixel_values"][:1]
    positions, ids = [14, 16], [7, 30]
    found = text_scores(llava, one, positions, ids)
    seen = {}
    hooks = []
    for layer, attention in attention_modules(llava).items():
        keep = lambda _, args, layer=layer: seen.update({("o", layer): args[0][0]})  # noqa: E731
        hooks.append(attention.o_proj.register_forward_pre_hook(keep))
    states = llava(**one, output_hidden_states=True).hidden_states
    for hook in hooks:
        hook.remove()
    for token, (position, word) in enumerate(zip(positions, ids, strict=True)):
        for layer, attention in attention_modules(llava).items():
            entering = states[layer][0, position]
            for head in range(N_HEADS):
                part = slice(head * D_HEAD, (head + 1) * D_HEAD)
                term = attention.o_proj.weight[:, part] @ seen["o", layer][position, part]
                logs = []
                for hidden in (entering, entering + term):
                    logits = [value.item() for value in llava.lm_head.weight @ hidden]
                    logs.append(logits[word] - math.log(sum(map(math.exp, logits))))
                assert found[token, layer, head].item() == pytest.approx(logs[1] - logs[0], abs=2e-5)


@torch.no_grad()
def test_attention_on_image_tokens(tiny_checkpoint):
    lvlm = load_lvlm(tiny_checkpoint)
    batch = lvlm.encode(IMAGES[:1], QUESTIONS[:1], [[40, 41, 42]])
    image = batch.image_mask[0]
    positions = [batch.response_start[0] - 1, batch.response_start[0] + 1]
    found = image_attention(lvlm.model, batch.inputs, positions, image)
    lvlm.model.set_attn_implementation("eager")
    maps = lvlm.model(**batch.inputs, output_attentions=True).attentions
    expected = torch.stack([layer[0][:, positions][..., image].transpose(0, 1) for layer in maps], 1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_cells_that_an_object_touches(tmp_path):
    grid = ImageGrid(2, 4, (0.0, 0.0, 1.0, 1.0))
    triangle = [0.0, 0.0, 45.0, 0.0, 0.0, 30.0]  # of a picture of 80 x 40
    assert touched_cells([triangle], (80, 40), grid).tolist() == [1, 1, 1, 0, 1, 0, 0, 0]
    middle = ImageGrid(1, 2, (0.25, 0.0, 0.75, 1.0))  # the central square
    assert touched_cells([[50, 10, 55, 10, 55, 15]], (80, 40), middle).tolist() == [False, True]
    assert not touched_cells([[1, 1, 9, 1, 9, 9]], (80, 40), middle).any()
    content = {
        "images": [{"id": 7}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {
                "image_id": 7,
                "category_id": 1,
                "bbox": [1, 2, 3, 4],
                "segmentation": [[0, 0, 1, 0, 1, 1], [2, 2, 3, 2, 3, 3]],
            },
            {"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], "segmentation": {"counts": "x", "size": [9, 9]}},
            {"image_id": 8, "category_id": 2, "bbox": [1, 2, 3, 4]},
        ],
    }
    (tmp_path / "instances_val2014.json").write_text(json.dumps(content))
    (tmp_path / "captions_val2014.json").write_text("{}")
    box = [1.0, 2.0, 4.0, 2.0, 4.0, 6.0, 1.0, 6.0]
    assert load_shapes(tmp_path, [7, 9]) == {7: {"cat": [[0, 0, 1, 0, 1, 1], [2, 2, 3, 2, 3, 3], box]}}
    content["annotations"].append({"image_id": 7, "category_id": 1, "bbox": [1, 2]})
    (tmp_path / "instances_val2014.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="instances_val2014.json: row 4 of `annotations`"):
        load_shapes(tmp_path, [7])


def test_from_captions_to_the_method(tiny_checkpoint, tiny_coco, tmp_path, capsys):
    shown = ["--model", tiny_checkpoint, "--image-folder", tiny_coco / "val2014"]
    annotations = tiny_coco / "annotations"
    asked = ["--annotations", annotations, "--split", "val2014", "--max-new-tokens", 8, "--out", tmp_path / "captions"]
    caption.main([*map(str, [*shown, *asked])])
    score.main(["chair", "--captions", str(tmp_path / "captions/captions.jsonl"), "--annotations", str(annotations)])
    scored = tmp_path / "captions/captions_eval_results.json"
    asked = [*shown, "--captions", scored, "--limit", 4, "--allpath", annotations, "--out", tmp_path / "heads"]
    attribute.main([*map(str, asked)])
    result = json.loads((tmp_path / "heads/attribution_result.json").read_text())
    rankings = result["allpath"]["chair"]
    for ranking in rankings.values():
        scores = np.array(ranking["scores"])
        listed = [scores[layer, head] for layer, head in ranking["highest"]]
        assert listed == sorted(scores.reshape(-1), reverse=True) and scores.shape == (4, 4)
        assert ranking["lowest"] == ranking["highest"][::-1] and ranking["n"][1] > 0
    assert rankings["text"]["n"][0] == result["n_true_words"]  # words of one token each
    text = f'allpath:n_low=128,n_high=64,n_image=0,heads="{tmp_path}/heads/attribution_result.json"'
    (edit,) = method_of(text, Material(load_lvlm(tiny_checkpoint))).method.interventions
    factors = dict(zip(map(tuple, edit.heads), edit.factors, strict=True))  # 128 of 1,024 heads are 2 of these 16
    expected = dict.fromkeys(map(tuple, rankings["text"]["lowest"][:2]), 0.0)
    assert factors == expected | {tuple(rankings["text"]["highest"][0]): 2.0}
    attribute.main([*map(str, asked)])  # finished
    assert "attribution_result.json" in capsys.readouterr().out
