"""Figure 4: blocks aligned by token, their cosine, known answers, the script end to end, wrong input in one line."""

import json
import shutil
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import LlamaForCausalLM, LlavaForConditionalGeneration

from llava_hh.attention.modules import attention_modules
from llava_hh.experiments.attention_inheritance import Inheritance
from llava_hh.experiments.measures.attention_inheritance import (
    TextBlocks,
    split_heads,
    summarise,
    text_blocks,
    tokens_per_cell,
)
from llava_hh.figures.attention_inheritance import draw_attention_inheritance
from llava_hh.files.images import load_image
from llava_hh.heads import Head
from llava_hh.models.lvlm import load_lvlm
from llava_hh.scripts import caption, figure
from tests.support.tiny import IMAGE_LENGTH, IMAGE_TOKEN, N_HEADS, N_LAYERS, TinyBatch, llava_batch, tiny_llama
from tests.support.verbs import score_chair

close = {"atol": 1e-5, "rtol": 0}


def language_model_of(llava: LlavaForConditionalGeneration, n_kv: int) -> LlamaForCausalLM:
    """The tiny LLaVA's own language model, on its own."""
    base = tiny_llama(n_kv)
    base.model.load_state_dict(llava.model.language_model.state_dict())
    return base


@pytest.fixture(params=["mha", "gqa"])
def pair(request) -> tuple[LlavaForConditionalGeneration, LlamaForCausalLM]:
    """A tiny LLaVA and a language model of its shapes, of other weights, that has no embedding for the image."""
    base = tiny_llama(2 if request.param == "gqa" else N_HEADS, seed=7)
    base.resize_token_embeddings(IMAGE_TOKEN)
    return request.getfixturevalue(f"{request.param}_llava"), base


@torch.no_grad()
@pytest.mark.parametrize("parts", [[3, "image", 6], [2, "image", 3, "image", 5], ["image", 4], [7]])
def test_similarity_equals_naive_loops_over_eager_maps(parts, pair):
    llava, base = pair
    batch = llava_batch([parts])
    modules = [*attention_modules(llava).values(), *attention_modules(base).values()]
    hooks = [dict(module._forward_hooks) for module in modules]  # transformers leaves some where it recorded attention
    blocks = text_blocks(llava, base, batch)
    ids, is_image = batch.inputs["input_ids"][0].tolist(), batch.image_mask[0].tolist()
    kept = [place for place, image in enumerate(is_image) if not image]  # the base's positions, by those of LLaVA
    last_image = max((place for place, image in enumerate(is_image) if image), default=-1)
    after = [place for place in kept if place > last_image]
    eager, eager_base = deepcopy(llava), deepcopy(base)
    for model in (eager, eager_base):
        model.set_attn_implementation("eager")
    maps = eager(**batch.inputs, output_attentions=True).attentions
    base_maps = eager_base(torch.tensor([[ids[place] for place in kept]]), output_attentions=True).attentions
    assert blocks.n_tokens == len(after) == parts[-1]
    found = blocks.similarity()
    assert found.shape == (N_LAYERS, N_HEADS)
    for layer in range(N_LAYERS):
        for head in range(N_HEADS):
            product = own_square = base_square = 0.0
            for row in after:
                for column in after:
                    own = float(maps[layer][0, head, row, column])
                    inherited = float(base_maps[layer][0, head, kept.index(row), kept.index(column)])
                    product += own * inherited
                    own_square += own * own
                    base_square += inherited * inherited
            assert float(found[layer, head]) == pytest.approx(product / (own_square * base_square) ** 0.5, abs=1e-5)
    assert [dict(module._forward_hooks) for module in modules] == hooks


def test_equal_weights_and_no_image_are_equal(mha_llava):
    blocks = text_blocks(mha_llava, language_model_of(mha_llava, N_HEADS), llava_batch([[9]]))
    assert_close(blocks.lvlm, blocks.base, **close)
    assert_close(blocks.similarity(), torch.ones(N_LAYERS, N_HEADS), **close)


def test_equal_weights_and_a_hidden_image_are_equal(mha_llava):
    """With the image masked out and positions counted without it, only a wrong alignment would tell the two apart."""
    base = language_model_of(mha_llava, N_HEADS)
    batch = llava_batch([[3, "image", 8]])
    assert text_blocks(mha_llava, base, batch).similarity().min() < 0.99  # seen, it does make a difference
    seen = (~batch.image_mask).long()
    inputs = {**batch.inputs, "attention_mask": seen, "position_ids": (seen.cumsum(1) - 1).clamp(min=0)}
    blocks = text_blocks(mha_llava, base, TinyBatch(inputs, batch.image_mask))
    assert_close(blocks.lvlm, blocks.base, **close)


def test_heat_maps_average_square_cells():
    n_tokens = 83
    assert [tokens_per_cell(n) for n in (1, 40, 41, 80, 81, n_tokens)] == [1, 1, 2, 2, 3, 3]
    own = torch.rand(2, 3, n_tokens, n_tokens, generator=torch.Generator().manual_seed(0)).tril()
    rows, columns = torch.tril_indices(n_tokens, n_tokens)
    entries = own[..., rows, columns]
    maps = TextBlocks(entries, 2 * entries, n_tokens).heat_maps([Head(1, 2), Head(0, 0)])
    assert maps.shape == (2, 2, 28, 28)
    assert_close(maps[0, 0, 4, 1], own[1, 2, 12:15, 3:6].mean())
    assert_close(maps[1, 1, 27, 27], 2 * own[0, 0, 81:, 81:].mean())  # the last cell has two tokens to a side


def test_summary_by_hand():
    similarity = np.array([[[0.2, 0.4], [0.6, 1.0]], [[0.4, 0.6], [0.8, 0.0]]])  # caption layer head
    groups = split_heads((2, 2), [Head(0, 1)], [Head(1, 0)])
    assert groups["other_heads"] == [Head(0, 0), Head(1, 1)]
    summary = summarise(similarity, groups)
    means = {name: group["mean"] for name, group in summary["groups"].items()}
    assert means == pytest.approx({"hal_heads": 0.5, "non_hal_heads": 0.7, "other_heads": 0.4, "same_layers": 0.3})
    assert summary["groups"]["same_layers"]["heads"] == [[0, 0]]
    assert summary["difference_same_layers"]["mean"] == pytest.approx(0.2)
    assert summary["groups"]["hal_heads"]["interval"]["mean"] == pytest.approx([0.4, 0.6])  # either caption drawn twice
    assert np.allclose(summary["similarity"], [[0.3, 0.5], [0.7, 0.5]])
    with pytest.raises(ValueError, match="L0H1 is among the hallucination heads and among the others"):
        split_heads((2, 2), [Head(0, 1)], [Head(0, 1)])
    with pytest.raises(ValueError, match="name all 2 heads"):
        split_heads((1, 2), [Head(0, 1)], [Head(0, 0)])


# --- the script


@pytest.fixture(scope="module")
def flags(tiny_checkpoint, tiny_coco, tmp_path_factory) -> dict[str, object]:
    """The script's flags without --out: captions of the tiny model, its base and a head list."""
    folder = tmp_path_factory.mktemp("inheritance")
    data = ["--model", tiny_checkpoint, "--image-folder", tiny_coco / "train2014", "--out", folder]
    data += ["--annotations", tiny_coco / "annotations", "--split", "train2014", "--max-new-tokens", 10]
    caption.main([str(flag) for flag in data])
    score_chair([f"--captions={folder / 'captions.jsonl'}", f"--annotations={tiny_coco / 'annotations'}"])
    save_base(folder / "base", IMAGE_TOKEN)
    heads = {"hal_heads": [[2, 1], [0, 3], [1, 1]], "non_hal_heads": [[3, 0], [1, 2], [0, 0]]}
    (folder / "heads.json").write_text(json.dumps(heads))
    return {
        "--model": tiny_checkpoint,
        "--base-model": folder / "base",
        "--captions": folder / "captions_eval_results.json",
        "--image-folder": tiny_coco / "train2014",
        "--heads": folder / "heads.json",
        "--top-k": 2,
        "--limit": 5,
        "--batch-size": 2,
    }


def save_base(folder: Path, n_tokens: int, **shape: int) -> None:
    base = tiny_llama(n_kv=2, seed=7)
    if shape:
        base = LlamaForCausalLM(type(base.config)(**{**base.config.to_dict(), **shape}))
    base.resize_token_embeddings(n_tokens)
    base.save_pretrained(folder)


def listed(flags: dict, out: Path, *more: object) -> list[str]:
    pairs = [item for pair in {**flags, "--out": out}.items() for item in pair]
    return ["inheritance", *(str(flag) for flag in (*pairs, *more))]


@pytest.fixture(scope="module")
def whole(flags, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    figure.main(listed(flags, out, "--paper-values"))
    return out


def result_of(folder: Path) -> dict:
    """The result without the provenance of its run."""
    result = json.loads((folder / "attention_inheritance.json").read_text())
    assert result.pop("run")["versions"]
    return result


def test_result_of_the_script(flags, whole):
    result = result_of(whole)
    assert result["n_captions"] == 5
    assert result["settings"]["top_k"] == 2
    assert result["paper"]["hal_heads"] == {"L16H29": 0.94}
    groups = result["groups"]
    assert groups["hal_heads"]["heads"] == [[2, 1], [0, 3]]
    assert groups["non_hal_heads"]["heads"] == [[3, 0], [1, 2]]
    of_heads = np.array(result["similarity"])
    assert of_heads.shape == (N_LAYERS, N_HEADS)
    assert len(groups["other_heads"]["heads"]) == of_heads.size - 4
    for group in groups.values():
        assert group["mean"] == pytest.approx(np.mean([of_heads[layer, head] for layer, head in group["heads"]]))
        assert group["interval"]["mean"][0] <= group["mean"] <= group["interval"]["mean"][1]
    assert all((whole / f"attention_inheritance.{ending}").stat().st_size > 1000 for ending in ("png", "pdf"))

    lvlm, base = load_lvlm(flags["--model"]), LlamaForCausalLM.from_pretrained(flags["--base-model"])
    entries = json.loads(flags["--captions"].read_text())["sentences"]
    entry = entries[0]
    image = load_image(flags["--image-folder"] / entry["image"])
    batch = lvlm.encode([image], [entry["prompt"]], [entry["token_ids"]])
    blocks = text_blocks(lvlm.model, base, batch)
    for group, head in {"hal_heads": Head(2, 1), "non_hal_heads": Head(3, 0)}.items():
        example = result["examples"][group]
        assert (example["head"], example["image_id"]) == (list(head), entry["image_id"])
        assert example["n_tokens"] == blocks.n_tokens
        assert batch.image_mask.sum() == IMAGE_LENGTH
        assert example["similarity"] == pytest.approx(float(blocks.similarity()[head]), abs=1e-6)
        expected = blocks.heat_maps([head])[0].numpy()
        assert np.allclose([example["lvlm"], example["base"]], expected, atol=1e-6)


def test_a_result_without_the_control_is_shown(whole, tmp_path):
    """Results of earlier versions have none."""
    result = result_of(whole)
    *_, control, difference = Inheritance().lines(result)
    assert control.startswith("6 same_layers: similarity 0.")
    assert difference.startswith("2 hal_heads minus same_layers: difference ")
    del result["groups"]["same_layers"], result["difference_same_layers"]
    assert not any("same_layers" in line for line in Inheritance().lines(result))
    (tmp_path / "old.json").write_text(json.dumps(result))
    draw_attention_inheritance(tmp_path / "old.json", tmp_path / "old")
    assert (tmp_path / "old.png").read_bytes() != (whole / "attention_inheritance.png").read_bytes()


def test_rerun_resumes_and_another_top_k_needs_no_forward(flags, whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "resumed")
    lost = tmp_path / "resumed" / "blocks" / "00001.json"
    lost.unlink()
    (tmp_path / "resumed" / "attention_inheritance.finished.json").unlink()  # a killed run has none
    seen = []

    def counted(*args):
        seen.append(args)
        return text_blocks(*args)

    monkeypatch.setattr("llava_hh.experiments.measures.attention_inheritance.text_blocks", counted)
    figure.main(listed(flags, tmp_path / "resumed", "--paper-values"))
    assert len(seen) == 2
    assert result_of(tmp_path / "resumed") == result_of(whole)
    figure.main(listed({**flags, "--top-k": 3}, tmp_path / "resumed"))
    assert len(seen) == 2
    again = result_of(tmp_path / "resumed")
    assert again["similarity"] == result_of(whole)["similarity"]
    assert again["groups"]["hal_heads"]["heads"] == [[2, 1], [0, 3], [1, 1]]
    assert "paper" not in again


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no config.json there; expected a folder with a language model"),
        ("llava", "model type 'llava' is no causal language model"),
        ("layers", "num_hidden_layers is 3, that of the model is 4"),
        ("heads", "num_attention_heads is 2, that of the model is 4"),
        ("vocabulary", "is beyond the 12 ids of the base model"),
        ("weights", "weights missing: "),
        ("top_k", "'hal_heads' has 3 heads, 9 were asked for"),
    ],
)
def test_wrong_input_is_one_line_before_any_work(kind, message, flags, tmp_path, capsys):
    base = tmp_path / "base"
    changed = {**flags, "--base-model": base}
    if kind == "llava":
        changed["--base-model"] = flags["--model"]
    elif kind == "layers":
        save_base(base, IMAGE_TOKEN, num_hidden_layers=3)
    elif kind == "heads":
        save_base(base, IMAGE_TOKEN, num_attention_heads=2)
    elif kind == "vocabulary":
        save_base(base, 12)
    elif kind == "weights":
        save_base(base, IMAGE_TOKEN, num_hidden_layers=3)
        config = json.loads((base / "config.json").read_text()) | {"num_hidden_layers": 4}
        (base / "config.json").write_text(json.dumps(config))
    elif kind == "top_k":
        changed |= {"--base-model": flags["--base-model"], "--top-k": 9}
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        figure.main(listed(changed, tmp_path / "out"))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert stopped.value.code == 2
    assert len(lines) == 1 and message in lines[0]
    assert not (tmp_path / "out").exists()
