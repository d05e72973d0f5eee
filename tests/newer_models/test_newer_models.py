"""newer_models and its profiles end to end on random models; attribution of a model that reads images in layers."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from llava_hh.attention.hooks import intervene
from llava_hh.attention.interventions import ZeroHeads
from llava_hh.decoding.method import generate_greedily
from llava_hh.files.images import load_image
from llava_hh.models.lvlm import load_lvlm
from llava_hh.newer_models.released import remove_as_released
from llava_hh.scripts import attribute, caption, evaluate, finetune
from tests.support.instructions import write_instructions
from tests.support.main_job import attribute_flags, caption_flags
from tests.support.tiny import tiny_mllama
from tests.support.tiny_newer import save_tiny_family
from tests.support.tiny_results import of_kind
from tests.support.verbs import score_chair


@pytest.fixture(scope="module")
def mllama_path(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("newer") / "mllama"
    save_tiny_family("mllama", folder)
    return folder


@pytest.fixture
def flags(mllama_path, tiny_coco, tmp_path) -> list[str]:
    heads = tmp_path / "heads.json"
    heads.write_text(json.dumps({"hal_heads": [[1, 0], [2, 3], [0, 1]]}))
    flags = ["--model", mllama_path, "--image-folder", tiny_coco / "val2014", "--heads", heads]
    flags += ["--annotations", tiny_coco / "annotations", "--limit", 5, "--max-new-tokens", 6, "--batch-size", 3]
    return [str(flag) for flag in [*flags, "--out", tmp_path / "out"]]


@torch.no_grad()
def test_released_removal_is_in_the_vision_tower():
    """Two layers of the tiny tower come first, of 16 dimensions; the text decoder's heads are 8 wide."""
    model, inputs = tiny_mllama()
    plain = model(**inputs).logits
    pruned = deepcopy(model)
    tower = pruned.model.vision_model
    tower.transformer.layers[0].self_attn.o_proj.weight[:, 8:16] = 0
    tower.global_transformer.layers[0].self_attn.o_proj.weight[:, :8] = 0
    with remove_as_released(model, [(0, 1), (1, 0), (1, 3)]):  # the last one is beyond the tower's width
        released = model(**inputs).logits
    assert_close(released, pruned(**inputs).logits)
    assert not torch.equal(released, plain)
    assert torch.equal(model(**inputs).logits, plain)
    image_mask = inputs["input_ids"] == model.config.image_token_id
    with intervene(model, image_mask, [ZeroHeads([(0, 1), (1, 0), (1, 3)])]):
        assert not torch.allclose(model(**inputs).logits, released)


def test_removal_on_mllama_and_what_its_code_removed(flags, tmp_path, capsys):
    evaluate.main([*flags, "--methods", "removal:top_k=2", "removal_released:top_k=2", "random:draws=1,of=removal"])
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    names = [of_kind(tmp_path / "out", kind).name for kind in ("removal", "removal_released", "random")]
    assert [*summary["methods"]] == ["greedy", *names[:2], "random heads"]
    assert "| heads removed, released indexing |" in capsys.readouterr().out
    texts = {}
    for name in ("greedy", *names):
        rows = (tmp_path / "out" / name / "captions.jsonl").read_text().splitlines()
        texts[name] = tuple(json.loads(row)["text"] for row in rows)
    assert len(set(texts.values())) == 4
    settings = json.loads((tmp_path / "out" / names[1] / "run.json").read_text())["settings"]
    assert settings["interventions"] == [{"kind": "RemoveAsReleased", "heads": [[1, 0], [2, 3]]}]


def test_adhh_of_a_cross_attention_layer_stops_before_captioning(flags, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        evaluate.main([*flags, "--methods", "removal:top_k=2", "adhh:top_k=2,threshold=0.5"])
    message = capsys.readouterr().err.splitlines()[-1]
    assert message == "error: these heads attend to the image alone, nothing comes after it there: L1H0"
    assert not list((tmp_path / "out").rglob("captions.jsonl"))


def test_released_indexing_is_of_mllama_alone(flags, tiny_checkpoint, capsys):
    with pytest.raises(SystemExit, match="2"):
        evaluate.main([*flags, "--model", str(tiny_checkpoint), "--methods", "removal_released:top_k=2"])
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: removal_released is about the indexing of mllama's heads; this model is llava")


def test_adhh_beside_removal_on_another_family(flags, tiny_checkpoint, tmp_path):
    methods = ["removal:top_k=2", "adhh:top_k=2,threshold=0.2"]
    evaluate.main([*flags, "--model", str(tiny_checkpoint), "--methods", *methods])
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert [entry["kind"] for entry in summary["methods"].values()] == ["greedy", "removal", "adhh"]
    (adhh,) = (own for name, own in summary["settings"]["methods"].items() if name.startswith("adhh"))
    assert [(each["kind"], each["threshold"]) for each in adhh["interventions"]] == [("DeactivateText", 0.2)]


def test_attribution_of_mllama_from_captions_on(mllama_path, tiny_coco, tmp_path):
    """Cross-attention layers are ranked with the others."""
    caption.main(caption_flags(mllama_path, tiny_coco, tmp_path))
    annotations = str(tiny_coco / "annotations")
    score_chair(["--captions", str(tmp_path / "captions.jsonl"), "--annotations", annotations])
    result = tmp_path / "captions_eval_results.json"
    attribute.main(attribute_flags(mllama_path, tiny_coco, result, tmp_path / "heads"))
    found = json.loads((tmp_path / "heads/attribution_result.json").read_text())
    scores = torch.tensor(found["contrastive_influence"])
    assert scores.shape == (3, 4) and (scores != 0).all()


@pytest.mark.parametrize("name", ["mllama", "chameleon", "qwen2_5_vl", "gemma3"])
def test_finetuning_leaves_a_checkpoint_of_the_family(name, tiny_coco, tmp_path):
    """Rows of two heads move, of the layers that attend to text; the folder is loaded and answers."""
    save_tiny_family(name, tmp_path / "model")
    write_instructions(tiny_coco, "train2014")
    (tmp_path / "heads.json").write_text(json.dumps({"hal_heads": [[0, 1], [2, 3]]}))
    flags = ["--model", tmp_path / "model", "--heads", tmp_path / "heads.json", "--top-k", 2, "--no-lm-head"]
    flags += ["--data", tiny_coco / "instruct_train2014.json", "--image-folder", tiny_coco, "--max-length", 60]
    flags += ["--steps", 2, "--batch-size", 3, "--learning-rate", 1e-2, "--out", tmp_path / "out"]
    finetune.main([str(flag) for flag in flags])
    before, after = load_lvlm(tmp_path / "model"), load_lvlm(tmp_path / "out/model")
    image = load_image(next((tiny_coco / "train2014").iterdir()))
    moved = [
        own
        for own, other in zip(before.model.named_parameters(), after.model.parameters(), strict=True)
        if (own[1] != other).any()
    ]
    assert sorted(name.rsplit("layers.")[1] for name, _ in moved) == [
        f"{layer}.self_attn.{part}.weight" for layer in (0, 2) for part in ("k_proj", "q_proj")
    ]
    assert generate_greedily(after, after.encode([image], ["describe"]), 4)[0].token_ids
