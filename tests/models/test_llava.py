"""LLaVA-1.5 in llava-hf's layout: prompt, token layout, pixels, batches; equal to what is worked out by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoProcessor

from llava_hh.attention.interventions import DeactivateText
from llava_hh.attribution.ablation import ablate_every_head
from llava_hh.decoding.method import generate_greedily
from llava_hh.heads import Head
from llava_hh.models.llava import is_llava15, pad_to_square
from llava_hh.models.lvlm import DESCRIBE, Lvlm, load_lvlm
from tests.support.photos import PHOTOS, assert_same_model, photo
from tests.support.tiny_llava15 import AFTER, BEFORE, MEAN, OBJECTS, SPREAD, save_tiny_llava15


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("llava15") / "llava-1.5-tiny-hf"
    save_tiny_llava15(folder)
    return folder


@pytest.fixture(scope="module")
def lvlm(folder) -> Lvlm:
    return load_lvlm(folder)


def pieces(lvlm: Lvlm, ids: torch.Tensor) -> list[str]:
    return lvlm.tokenizer.convert_ids_to_tokens(ids.tolist())


def test_token_layout_is_that_of_the_paper(tmp_path):
    """BOS and 34 pieces, 576 image positions from 35 on, 14 pieces: an image of 336 pixels in patches of 14."""
    save_tiny_llava15(tmp_path, side=336)
    lvlm = load_lvlm(tmp_path)
    batch = lvlm.encode([photo(640, 480)], [DESCRIBE])
    ids = batch.inputs["input_ids"][0]
    assert pieces(lvlm, ids) == BEFORE + ["<image>"] * 576 + AFTER
    assert batch.image_mask[0].nonzero().flatten().tolist() == list(range(35, 611))
    assert batch.response_start == [625]
    assert batch.inputs["pixel_values"].shape == (1, 3, 336, 336)


def test_without_an_image_the_prompt_is_one_text(lvlm):
    batch = lvlm.encode([None], ["describe this"])
    text = lvlm.tokenizer.decode(batch.inputs["input_ids"][0], skip_special_tokens=True)
    assert text.endswith("questions. USER: describe this ASSISTANT:")
    assert text.startswith("A chat between")
    assert not batch.image_mask.any()
    assert "pixel_values" not in batch.inputs


def test_a_mixed_batch_is_its_rows_padded_on_the_left(lvlm):
    rows = [(PHOTOS[0], DESCRIBE, [5, 6]), (None, "describe", [7]), (PHOTOS[1], "a dog?", [])]
    images, prompts, answers = (list(column) for column in zip(*rows, strict=True))
    batch = lvlm.encode(images, prompts, answers)
    for row, (image, prompt, answer) in enumerate(rows):
        alone = lvlm.encode([image], [prompt], [answer])
        ids = batch.inputs["input_ids"][row][batch.inputs["attention_mask"][row].bool()]
        assert torch.equal(ids, alone.inputs["input_ids"][0])
        assert batch.inputs["input_ids"][row, batch.response_start[row] :].tolist() == answer
        assert batch.image_mask[row].sum() == (4 if image else 0)
    alone = [lvlm.encode([image], ["a"]).inputs["pixel_values"] for image in (images[0], images[2])]
    assert torch.equal(batch.inputs["pixel_values"], torch.cat(alone))


@pytest.mark.parametrize("image", PHOTOS, ids=["wide", "tall", "square"])
def test_pixels_equal_padding_resizing_and_normalising_by_hand(lvlm, image):
    width, height = image.size
    side = max(width, height)
    square = np.empty((side, side, 3), dtype=np.uint8)
    square[:] = (122, 116, 104)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = np.asarray(image)
    small = Image.fromarray(square).resize((28, 28), Image.Resampling.BICUBIC)
    expected = (np.asarray(small) / 255 - MEAN) / SPREAD
    pixels = lvlm.encode([image], [DESCRIBE]).inputs["pixel_values"][0]
    assert_close(pixels, torch.tensor(expected).permute(2, 0, 1).float(), atol=1e-5, rtol=1e-5)


def test_padding_keeps_every_pixel_and_centres_odd_sizes():
    padded = np.asarray(pad_to_square(Image.new("RGB", (5, 2), (1, 2, 3)), (9, 9, 9)))
    assert padded.shape == (5, 5, 3)
    assert (padded == (1, 2, 3)).all(-1).any(1).tolist() == [False, True, True, False, False]


def test_a_batch_of_mixed_sizes_equals_single_images(lvlm):
    prompts = [DESCRIBE, "describe the dog and the cat", "a car"]
    for edits in ([], [DeactivateText([Head(1, 0), Head(3, 2)], 0.2)]):
        together = generate_greedily(lvlm, lvlm.encode(PHOTOS, prompts), 8, edits)
        for image, prompt, answer in zip(PHOTOS, prompts, together, strict=True):
            assert generate_greedily(lvlm, lvlm.encode([image], [prompt]), 8, edits) == [answer]
        words = lvlm.tokenizer.decode(together[0].token_ids).split()
        assert set(words) <= set(OBJECTS)


def test_ids_that_the_vocabulary_lacks_are_never_spoken(lvlm):
    tokenizer, vocabulary = lvlm.tokenizer, lvlm.model.config.text_config.vocab_size
    expected = {tokenizer.pad_token_id, lvlm.model.config.image_token_id, *range(len(tokenizer), vocabulary)}
    assert set(lvlm.model.generation_config.suppress_tokens) == expected
    batch = lvlm.encode(PHOTOS, [DESCRIBE] * 3)
    with torch.no_grad():
        free = lvlm.model(**batch.inputs).logits[:, -1].argmax(-1).tolist()
    assert set(free) & expected  # this model would speak them
    spoken = {token for answer in generate_greedily(lvlm, batch, 6) for token in answer.token_ids}
    assert not spoken & expected


def test_attribution_runs_on_the_layout(lvlm):
    batch = lvlm.encode([PHOTOS[0]], [DESCRIBE], [lvlm.tokenizer.convert_tokens_to_ids(["▁dog", "▁cat"])])
    start = batch.response_start[0]
    ids = batch.inputs["input_ids"][0, start : start + 2].tolist()
    ablated = ablate_every_head(lvlm.model, batch.inputs, [start - 1, start], ids)
    with torch.no_grad():
        expected = lvlm.model(**batch.inputs).logits[0, [start - 1, start]].log_softmax(-1)[[0, 1], ids]
    assert_close(ablated.clean, expected, atol=1e-5, rtol=1e-5)


# what transformers saves -> what llava-hf's files say, and what transformers' modules are called
PUBLISHED = {"vision_tower.": "vision_tower.vision_model."}
CANONICAL = {
    "language_model.model.": "model.language_model.",
    "language_model.lm_head.": "lm_head.",
    "vision_tower.": "model.vision_tower.",
    "multi_modal_projector.": "model.multi_modal_projector.",
}


def copy_files(folder: Path, to: Path) -> None:
    """All but the weights."""
    for path in folder.iterdir():
        if path.suffix in (".json", ".jinja"):
            (to / path.name).write_bytes(path.read_bytes())


@pytest.mark.parametrize("names", [PUBLISHED, CANONICAL], ids=["published", "canonical"])
def test_weight_names(names, folder, lvlm, tmp_path):
    copy_files(folder, tmp_path)
    renamed = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        begin = next((each for each in names if name.startswith(each)), "")
        renamed[names.get(begin, "") + name.removeprefix(begin)] = tensor
    assert any(name.startswith(tuple(names.values())) for name in renamed)
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert_same_model(load_lvlm(tmp_path), lvlm)


@pytest.mark.parametrize(
    "left_out",
    [
        ["patch_size", "vision_feature_select_strategy", "num_additional_image_tokens"],
        ["num_additional_image_tokens"],
        ["vision_feature_select_strategy"],
    ],
    ids=lambda keys: "+".join(keys),
)
def test_an_early_processor_is_completed_from_the_model(left_out, folder, lvlm, tmp_path):
    """llava-hf's files of several ages: images in preprocessor_config.json, the template in chat_template.json."""
    copy_files(folder, tmp_path)
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    images = settings.pop("image_processor") | {"processor_class": "LlavaProcessor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(images))
    kept = {key: value for key, value in settings.items() if key not in left_out}
    (tmp_path / "processor_config.json").write_text(json.dumps(kept))
    template = (tmp_path / "chat_template.jinja").read_text()
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert_same_model(load_lvlm(tmp_path), lvlm)


@pytest.fixture
def with_template(folder, tmp_path):
    """The checkpoint with another chat template, the processor's or only the tokenizer's; None is none at all."""

    def load(template: str | None, tokenizers: bool = False) -> Lvlm:
        copy_files(folder, tmp_path)
        (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
        (tmp_path / "chat_template.jinja").unlink()
        if template is not None and tokenizers:
            settings = json.loads((tmp_path / "tokenizer_config.json").read_text()) | {"chat_template": template}
            (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        elif template is not None:
            (tmp_path / "chat_template.jinja").write_text(template)
        return load_lvlm(tmp_path)

    return load


def test_without_a_chat_template_it_is_llava15(with_template, lvlm):
    assert_same_model(with_template(None), lvlm)


@pytest.mark.parametrize("tokenizers", [False, True], ids=["processor", "tokenizer"])
def test_another_chat_template_is_used_as_it_is(with_template, tokenizers):
    other = with_template("{% for part in messages[0].content %}{{ part.text or '<image>' }} {% endfor %}a", tokenizers)
    assert other.model.generation_config.suppress_tokens is None
    ids = other.encode([PHOTOS[0], None], ["describe"] * 2).inputs["input_ids"]
    assert other.tokenizer.decode(ids[0]).count("<image>") == 4
    assert [other.tokenizer.decode(row, skip_special_tokens=True).split() for row in ids] == [["describe", "a"]] * 2


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{{ 'USER: ' + messages[0]['content'] }}", "fails on a question with an image: can only concatenate"),
        ("{{ raise_exception('text only') }}", "fails on a question with an image: text only"),
        ("{{ messages[0]['content'] }}", "writes <image> 0 times; expected 1"),
    ],
)
def test_a_chat_template_without_images_is_refused(with_template, template, complaint):
    with pytest.raises(ValueError, match=f"^the chat template of .*{complaint}"):
        with_template(template)


def test_which_checkpoints_are_llava15(folder, tiny_checkpoint):
    published, own = AutoProcessor.from_pretrained(folder), AutoProcessor.from_pretrained(tiny_checkpoint)
    assert is_llava15(published)
    assert not is_llava15(own)
    published.chat_template = None
    assert is_llava15(published)


def test_a_prompt_with_the_image_token_is_refused(lvlm):
    with pytest.raises(ValueError, match="'what is <image>' holds <image>"):
        lvlm.encode([PHOTOS[0]], ["what is <image>"])
