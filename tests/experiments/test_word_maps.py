"""Where heads look at words: against eager attention, unpacked again, and the cells of an image against its pixels."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from tokenizers import Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from llava_hh.attention.modules import attention_modules
from llava_hh.decoding.head_lists import heads_with_text
from llava_hh.experiments.measures import word_maps
from llava_hh.experiments.measures.codes import encode_weights
from llava_hh.experiments.measures.word_maps import token_texts
from llava_hh.files.images import load_image
from llava_hh.heads import Head
from llava_hh.models.image_grid import central_square, padded_square, square_grid
from llava_hh.models.lvlm import load_lvlm
from llava_hh.scripts import figure
from tests.support.tiny_llava15 import save_tiny_llava15
from tests.support.tiny_newer import save_tiny_family


def eager_rows(lvlm, image, prompt: str, token_ids: list[int]) -> tuple[torch.Tensor, list[int], int]:
    """Maps (layer, head, query, key) of one caption, its ids, and where the answer begins."""
    batch = lvlm.encode([image], [prompt], [token_ids])
    lvlm.model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = lvlm.model(**batch.inputs, output_attentions=True).attentions
    lvlm.model.set_attn_implementation("sdpa")
    return torch.stack(maps)[:, 0], batch.inputs["input_ids"][0].tolist(), batch.response_start[0]


def value_lengths(lvlm, image, prompt: str, token_ids: list[int]) -> torch.Tensor:
    """Norms of the values that each head reads, (layer, head, key), from the outputs of v_proj."""
    batch, lengths, handles = lvlm.encode([image], [prompt], [token_ids]), {}, []
    n_heads, modules = lvlm.model.config.get_text_config().num_attention_heads, attention_modules(lvlm.model)
    for layer, module in modules.items():
        d_head = module.o_proj.in_features // n_heads

        def keep(_, args, out, layer=layer, d_head=d_head):
            of_key_heads = out[0].unflatten(-1, (-1, d_head)).norm(dim=-1).T  # key_head key
            lengths[layer] = of_key_heads.repeat_interleave(n_heads // len(of_key_heads), 0)

        handles.append(module.v_proj.register_forward_hook(keep))
    with torch.no_grad():
        lvlm.model(**batch.inputs)
    for handle in handles:
        handle.remove()
    return torch.stack([lengths[layer] for layer in modules])


def test_recorded_words_equal_eager_attention(tiny_results, tiny_checkpoint, tiny_coco):
    folder = tiny_results / "train2014"
    recorded = json.loads((folder / "word_maps" / "word_maps.json").read_text())
    arrays = load_file(folder / "word_maps" / "word_maps.safetensors")
    entries = json.loads((folder / "captions_eval_results.json").read_text())["sentences"]
    entries = {entry["image_id"]: entry for entry in entries}
    lvlm = load_lvlm(tiny_checkpoint)
    best = json.loads((folder / "identify_attention_head" / "attribution_result.json").read_text())["hal_heads"]
    assert recorded["heads"] == best[:2]
    assert len(recorded["captions"]) == 3
    begin = place = 0
    for row in recorded["captions"]:
        entry = entries[row["image_id"]]
        assert [word["word"] for word in row["words"]] == [mention["word"] for mention in entry["mentions"]]
        image = load_image(tiny_coco / "train2014" / entry["image"])
        maps, ids, start = eager_rows(lvlm, image, entry["prompt"], entry["token_ids"])
        lengths = value_lengths(lvlm, image, entry["prompt"], entry["token_ids"])
        shown = [position for position, token in enumerate(ids) if token == 120]
        assert row["n_image"] == len(shown) == row["grid"]["rows"] * row["grid"]["columns"]
        assert row["n_prompt"] == start - shown[-1] - 1
        assert row["tokens"] == token_texts(lvlm.tokenizer, ids[shown[-1] + 1 :])
        assert "".join(row["tokens"][row["n_prompt"] :]).strip() == entry["caption"]
        for word in row["words"]:
            assert ids[start + word["index"]] == word["token_id"]
            query = start + word["index"] - 1
            text = range(shown[-1] + 1, query + 1)
            n_keys = len(shown) + len(text)
            codes = arrays["codes"][begin : begin + 2 * n_keys].reshape(2, n_keys)
            for number, (layer, head) in enumerate(best[:2]):
                pattern = maps[layer, head, query].numpy()
                brought = pattern * lengths[layer, head].numpy()
                read, shares = word["read"][number], brought[list(text)] / brought.sum()
                assert read["image"] == pytest.approx(brought[shown].sum() / brought.sum(), abs=1e-5)
                best_five = np.argsort(-shares, kind="stable")[:5]
                assert [share for _, share in read["tokens"]] == pytest.approx(shares[best_five], abs=1e-5)
                assert all(shares[index] == pytest.approx(share, abs=1e-5) for index, share in read["tokens"])
                scales = arrays["scales"][place, number]
                assert np.allclose(codes[number, : len(shown)] * scales[0] / 255, pattern[shown], atol=scales[0] / 250)
                assert np.allclose(codes[number, len(shown) :] * scales[1] / 255, pattern[text], atol=scales[1] / 250)
                parts = [pattern[shown].sum(), pattern[shown[-1] + 1 : start].sum()]
                parts += [pattern[start:].sum(), pattern[: shown[0]].sum()]
                assert np.allclose(arrays["parts"][place, number], parts, atol=1e-5)
            begin, place = begin + 2 * n_keys, place + 1
    assert (begin, place) == (len(arrays["codes"]), len(arrays["scales"]))


def test_a_rerun_records_nothing_twice(tiny_results, tiny_checkpoint, tiny_coco, tmp_path, monkeypatch):
    source = tiny_results / "train2014"
    shutil.copytree(source / "word_maps", tmp_path / "maps")
    flags = ["--model", tiny_checkpoint, "--image-folder", tiny_coco / "train2014"]
    flags += ["--captions", source / "captions_eval_results.json", "--out", tmp_path / "maps"]
    flags += [
        "--heads",
        source / "identify_attention_head" / "attribution_result.json",
        "--top-k",
        2,
        "--batch-size",
        2,
    ]
    done = []
    measure = word_maps.measure_caption
    monkeypatch.setattr(word_maps, "measure_caption", lambda *given: done.append(given) or measure(*given))
    figure.main(["words", *map(str, flags), "--limit", "3"])
    assert not done
    name = "word_maps.safetensors"
    assert (tmp_path / "maps" / name).read_bytes() == (source / "word_maps" / name).read_bytes()
    figure.main(["words", *map(str, flags), "--limit", "5"])
    assert len(done) == 3  # block 1 has another caption now, block 2 is new


def test_codes_by_hand():
    weights = np.array([[0.15, 0.2, 0.0, 0.4, 0.1], [0.0, 0.0, 0.0, 0.5, 0.2]])
    codes, scales = encode_weights(weights, n_image=3)
    assert codes.tolist() == [[191, 255, 0, 255, 64], [0, 0, 0, 255, 102]]
    assert scales.tolist() == pytest.approx([pytest.approx([0.2, 0.4]), pytest.approx([0.0, 0.5])])


def test_a_token_inside_a_character_adds_nothing():
    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: place for place, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    assert token_texts(fast, fast("aé🐕.").input_ids) == ["a", "", "é", "", "", "", "🐕", "."]


def test_boxes_by_hand():
    assert padded_square((200, 100)) == (0, -0.5, 1, 1.5)
    assert central_square((200, 100)) == (0.25, 0, 0.75, 1)
    assert padded_square((100, 200)) == (-0.5, 0, 1.5, 1)
    assert central_square((100, 100)) == padded_square((100, 100)) == (0, 0, 1, 1)
    with pytest.raises(ValueError, match="12 image tokens are no square"):
        square_grid(12, (0, 0, 1, 1))


@pytest.mark.parametrize("family", ["mini", "llava15", "chameleon"])
@pytest.mark.parametrize("size", [(200, 120), (120, 200), (150, 150)])
def test_cells_are_where_the_model_gets_their_pixels(family, size, tiny_checkpoint, tmp_path):
    """A black cell changes the pixels that become the token of that cell, more than all others together."""
    if family == "llava15":
        save_tiny_llava15(tmp_path, side=56)
    elif family == "chameleon":
        save_tiny_family(family, tmp_path)
    lvlm = load_lvlm(tiny_checkpoint if family == "mini" else tmp_path)
    white = Image.new("RGB", size, "white")
    batch = lvlm.encode([white], ["describe"])
    grid = lvlm.image_grid(batch)
    assert grid.rows * grid.columns == int(batch.image_mask.sum())
    left, top, right, bottom = grid.box
    checked = 0
    for row in range(grid.rows):
        for column in range(grid.columns):
            corners = [(left + (right - left) * (column + side) / grid.columns) * size[0] for side in (0, 1)]
            heights = [(top + (bottom - top) * (row + side) / grid.rows) * size[1] for side in (0, 1)]
            cell = tuple(round(place) for pair in zip(corners, heights, strict=True) for place in pair)
            if cell[0] < 0 or cell[1] < 0 or cell[2] > size[0] or cell[3] > size[1]:
                continue  # padding, at least in part
            painted = white.copy()
            painted.paste("black", cell)
            pixels = lvlm.encode([painted], ["describe"]).inputs["pixel_values"]
            changed = (pixels - batch.inputs["pixel_values"])[0].abs().sum(0)
            patch = changed.shape[0] // grid.rows
            per_cell = changed.unflatten(1, (-1, patch)).unflatten(0, (-1, patch)).sum((1, 3))
            assert per_cell.argmax() == row * grid.columns + column
            assert per_cell[row, column] > 0.6 * per_cell.sum()
            checked += 1
    assert checked >= grid.columns


def test_heads_of_layers_without_text_are_left_out(tmp_path):
    save_tiny_family("mllama", tmp_path)
    lvlm = load_lvlm(tmp_path)
    crosses = lvlm.model.config.get_text_config().cross_attention_layers
    heads = [Head(layer, 1) for layer in range(lvlm.n_layers)]
    assert heads_with_text(lvlm, heads) == [head for head in heads if head.layer not in crosses]
    assert crosses


def test_a_family_that_cannot_say_has_no_grid(tmp_path):
    save_tiny_family("internvl", tmp_path)
    lvlm = load_lvlm(tmp_path)
    assert lvlm.image_grid(lvlm.encode([Image.new("RGB", (40, 40))], ["describe"])) is None
