"""AllPath's rankings of heads: against one head at a time, by loops; from captions to the method that reads them."""

import json
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import GraniteConfig, GraniteForCausalLM

from llava_hh.attention.modules import attention_modules
from llava_hh.attribution.allpath import _other_token, _ranked, image_attention, score_answer, text_scores
from llava_hh.attribution.outputs import record_outputs
from llava_hh.attribution.run import CaptionAttribution
from llava_hh.data.coco_shapes import load_shapes, touched_cells
from llava_hh.decoding.making import Material
from llava_hh.decoding.reading import method_of
from llava_hh.models.image_grid import ImageGrid
from llava_hh.models.lvlm import load_lvlm
from llava_hh.scripts import attribute, caption, score
from tests.support.questions import IMAGES, QUESTIONS
from tests.support.tiny import D_HEAD, N_HEADS, text_settings
from tests.support.tiny_checkpoint import save_polled_checkpoint
from tests.support.tiny_newer import save_tiny_family


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


@torch.no_grad()
def test_a_layers_multiplier_is_in_the_term():
    """Granite adds 0.2 of what its attention gives."""
    torch.manual_seed(0)
    config = GraniteConfig(**text_settings(2), residual_multiplier=0.2, attention_multiplier=0.3)
    model = GraniteForCausalLM(config).eval()
    inputs = {"input_ids": torch.tensor([[5, 9, 30, 7]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    found = text_scores(model, inputs, [3], [11])
    outputs = record_outputs(model, inputs, [3])["heads"][0]
    entering = model(**inputs, output_hidden_states=True).hidden_states[2][0, 3]
    term = 0.2 * attention_modules(model)[2].o_proj.weight[:, :D_HEAD] @ outputs[2, 0]
    logs = [model.lm_head(hidden).log_softmax(-1)[11] for hidden in (entering, entering + term)]
    assert found[0, 2, 0].item() == pytest.approx((logs[1] - logs[0]).item(), abs=1e-5)


def test_the_other_answer_is_spelled_alike():
    class Tokenizer:
        ids = {"Yes": [1], " Yes": [2], "No": [3], " No": [4], "yes": [5], "no": [6, 7], " yes": [8], " no": [9]}

        def __call__(self, text, add_special_tokens):
            return SimpleNamespace(input_ids=self.ids[text])

    found = [_other_token(Tokenizer(), *said) for said in ((1, "Yes"), (2, "Yes"), (4, "No"), (5, "yes"), (8, "yes"))]
    assert found == [3, 4, 2, None, 9]


@torch.no_grad()
def test_an_answered_question(tiny_checkpoint, tmp_path, monkeypatch):
    """By two passes of the lens, and the question's word for the object by its attention on two cells."""
    save_polled_checkpoint(tiny_checkpoint, tmp_path / "polled")
    IMAGES[0].save(tmp_path / "a.png")
    teacher = CaptionAttribution(model=tmp_path / "polled", image_folder=tmp_path)
    lvlm = teacher.lvlm
    word = "dog"
    monkeypatch.setattr("llava_hh.attribution.allpath.ASKED", re.compile(r"a (\w+) and"))  # words that it knows
    entry = {"image_id": 1, "image": "a.png", "prompt": f"a {word} and the cat", "caption": "No"}
    mention = {"word": "No", "node": "No", "start": 0, "end": 2, "hallucinated": True}
    ids = lvlm.tokenizer("No", add_special_tokens=False).input_ids
    entry |= {"token_ids": ids, "mentions": [mention]}
    width, height = IMAGES[0].size
    shapes = {word: [[0, 0, width, 0, width, height / 2 - 1, 0, height / 2 - 1]]}  # the upper two of four cells
    sums = score_answer(teacher, entry, shapes)
    batch = teacher.batch(entry)
    position = batch.response_start[0] - 1
    yes = lvlm.tokenizer("Yes", add_special_tokens=False).input_ids
    right, wrong = text_scores(lvlm.model, batch.inputs, [position] * 2, [yes[0], ids[0]])
    np.testing.assert_allclose(sums["text"][0], (right - wrong).numpy(), atol=1e-6)
    places = (batch.inputs["input_ids"][0] == lvlm.tokenizer(word, add_special_tokens=False).input_ids[0]).nonzero()
    looked = image_attention(lvlm.model, batch.inputs, places[0].tolist(), batch.image_mask[0])[0]
    np.testing.assert_allclose(sums["image"][0], looked[..., :2].sum(-1).numpy(), atol=1e-6)
    assert (sums["n_text"], sums["n_image"]) == ([1], [1])


def test_large_models_keep_as_large_a_share():
    ranked = _ranked(np.arange(1600.0).reshape(40, 40))
    assert len(ranked["highest"]) == len(ranked["lowest"]) == 79 and ranked["highest"][0] == [39, 39]


def test_a_model_without_terms_is_refused_before_the_work(tiny_coco, tmp_path, capsys):
    save_tiny_family("gemma3", tmp_path / "model")
    name = next((tiny_coco / "val2014").iterdir()).name
    row = {"image_id": 1, "image": name, "prompt": "what", "answer": "no", "label": "yes", "token_ids": None}
    (tmp_path / "answers.jsonl").write_text(
        json.dumps(row) + "\n" + json.dumps(row | {"prompt": "a", "label": "no"}) + "\n"
    )
    asked = [
        "--model",
        tmp_path / "model",
        "--image-folder",
        tiny_coco / "val2014",
        "--answers",
        tmp_path / "answers.jsonl",
    ]
    with pytest.raises(SystemExit):
        attribute.main([*map(str, [*asked, "--allpath", tiny_coco / "annotations", "--out", tmp_path / "out"])])
    assert "--allpath: a norm follows o_proj in this model" in capsys.readouterr().err
    assert not (tmp_path / "out" / "blocks").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [', "expected COCO's format, but"),
        (
            '{"annotations": [{"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]}]}',
            "an instance of category 1, not",
        ),
        (
            '{"annotations": [{"image_id": 7, "category_id": 1, "segmentation": [[1, 2, 3]]}]}',
            "row 1 of `annotations`: a polygon is a list of x and y in turn",
        ),
    ],
)
def test_damaged_annotations_are_one_line(content, message, tmp_path):
    (tmp_path / "instances_val2014.json").write_text(content)
    (tmp_path / "captions_val2014.json").write_text("{}")
    with pytest.raises(ValueError, match=message):
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
    with pytest.raises(SystemExit):
        attribute.main([*map(str, asked[:-1]), str(tmp_path / "other"), "--released"])
    assert "--allpath: does not go with --released" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        attribute.main([*map(str, asked), "--limit", "2"])
    assert "limit" in capsys.readouterr().err
    attribute.main([*map(str, asked)])  # finished
    assert "attribution_result.json" in capsys.readouterr().out
