"""Figure 3: the parts of attention against eager attention, their means by hand, and the script end to end."""

import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from llava_hh.experiments.measures.attention_bias import attention_parts, summarise_group
from llava_hh.files.images import load_image
from llava_hh.heads import Head
from llava_hh.models.lvlm import load_lvlm
from llava_hh.scripts import attribute, caption, figure
from tests.support.verbs import score_chair

HEADS = [Head(2, 3), Head(0, 1), Head(2, 0), Head(3, 2)]  # not in the order of the layers


def test_parts_of_a_left_padded_batch_equal_eager_attention(tiny_checkpoint, tiny_coco):
    """Three rows of other lengths, the last without an image."""
    lvlm = load_lvlm(tiny_checkpoint)
    paths = sorted((tiny_coco / "train2014").iterdir())[:2]
    prompts, answers = ["describe a dog", "describe", "a cat and a dog"], [[20, 21, 22, 23], [30, 31], [40, 41, 42]]
    batch = lvlm.encode([*map(load_image, paths), None], prompts, answers)
    there = batch.inputs["attention_mask"].bool()
    assert not there.all()
    positions = [[start - 1, start + 1] for start in batch.response_start]
    parts = attention_parts(lvlm, batch, positions, HEADS)
    lvlm.model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = lvlm.model(**batch.inputs, output_attentions=True).attentions
    for row, start in enumerate(batch.response_start):
        ids = batch.inputs["input_ids"][row].tolist()
        image = [place for place, token in enumerate(ids) if token == 120]
        before = range(image[0]) if image else range(start)
        question = range(image[-1] + 1, start) if image else ()
        for number, position in enumerate(positions[row]):
            for column, (layer, head) in enumerate(HEADS):
                pattern = maps[layer][row, head, position].tolist()
                spans = (image, question, range(start, len(ids)), before)
                expected = [sum(pattern[place] for place in span) for span in spans]
                assert_close(parts[row][number, column], torch.tensor(expected), atol=1e-5, rtol=1e-4)
        assert_close(parts[row].sum(-1), torch.ones(2, 4), atol=1e-5, rtol=0)
        assert (parts[row][0, :, 2] == 0).all()  # nothing is said yet when the first token is predicted


def test_means_by_hand():
    """Two images; the second has two words. Parts of one head."""
    parts = np.array([[[0.1, 0.2, 0.3, 0.4]], [[0.3, 0.2, 0.1, 0.4]], [[0.5, 0.0, 0.1, 0.4]]], dtype=np.float32)
    targets = [{"hallucinated": True}, {"hallucinated": False}, {"hallucinated": True}]
    summary = summarise_group(parts, targets, np.array([7, 8, 8]), [Head(1, 2)])
    assert summary["all"]["image_mass"]["mean"] == pytest.approx(0.3)
    assert summary["hallucinated"]["after_image_mass"]["mean"] == pytest.approx((0.5 + 0.1) / 2)
    assert summary["true"]["generated_mass"] == {
        "mean": pytest.approx(0.1),
        "interval": {"mean": pytest.approx([0.1, 0.1])},
    }
    # drawn are image 7 twice (0.1), 8 twice (0.4), or both (0.3)
    assert summary["all"]["image_mass"]["interval"]["mean"] == pytest.approx([0.1, 0.4])
    assert [summary[kind]["n_words"] for kind in ("all", "hallucinated", "true")] == [3, 2, 1]
    expected = [0.3, 0.4 / 3, 0.5 / 3, 0.4, 0.9 / 3]
    assert [value for name, value in summary["heads"][0].items() if name != "head"] == pytest.approx(expected)
    assert summarise_group(parts[:1], targets[:1], np.array([7]), [Head(1, 2)])["true"] is None


@pytest.fixture(scope="module")
def flags(tiny_checkpoint, tiny_coco, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("bias")
    model = ["--model", str(tiny_checkpoint), "--image-folder", str(tiny_coco / "train2014")]
    sample = ["--annotations", str(tiny_coco / "annotations"), "--split", "train2014", "--max-new-tokens", "8"]
    caption.main([*model, *sample, "--limit", "6", "--out", str(folder)])
    score_chair(["--captions", str(folder / "captions.jsonl"), *sample[:2]])
    captions = ["--captions", str(folder / "captions_eval_results.json")]
    attribute.main([*model, *captions, "--list-length", "3", "--out", str(folder / "heads")])
    heads = ["--heads", str(folder / "heads" / "attribution_result.json"), "--top-k", "3"]
    return [*model, *captions, *heads, "--batch-size", "2"]


def test_script_and_rerun(flags, tmp_path, monkeypatch):
    out = ["--out", str(tmp_path), "--limit", "5"]
    figure.main(["bias", *flags, *out, "--paper-values"])
    result = json.loads((tmp_path / "attention_bias.json").read_text())
    assert result["n_captions"] == 5
    for summary in result["groups"].values():
        means = {name: entry["mean"] for name, entry in summary["all"].items() if name != "n_words"}
        assert sum(means.values()) - means["after_image_mass"] == pytest.approx(1, abs=1e-5)
        assert len(summary["heads"]) == 3
    assert result["paper"]["hal_heads"]["image_mass"] == 0.11
    assert (tmp_path / "attention_bias.png").stat().st_size > 1000

    def refuse(*_):
        raise AssertionError("a finished block ran again")

    monkeypatch.setattr("llava_hh.experiments.measures.attention_bias.attention_parts", refuse)
    figure.main(["bias", *flags, *out])
    assert "paper" not in json.loads((tmp_path / "attention_bias.json").read_text())


def test_too_many_heads_is_one_line(flags, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        figure.main(["bias", *flags, "--top-k", "9", "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert "'hal_heads' has 3 heads, 9 were asked for" in capsys.readouterr().err
