"""LLaVA's original layouts: the same model as from transformers' layout, token for token and to 1e-5."""

import json
from pathlib import Path

import pytest
import torch
from sentencepiece import SentencePieceProcessor
from torch.testing import assert_close
from transformers import LlavaNextForConditionalGeneration

from llava_hh.attention.hooks import intervene, record
from llava_hh.attention.interventions import DeactivateText
from llava_hh.attribution.ablation import ablate_every_head
from llava_hh.decoding.method import generate_greedily
from llava_hh.experiments.measures.attention_inheritance import load_base, text_blocks
from llava_hh.heads import Head
from llava_hh.models.checkpoint import load_checkpoint, load_config, model_type_of
from llava_hh.models.llava import vicuna_prompt
from llava_hh.models.loading import Loading
from llava_hh.models.lvlm import DESCRIBE, Lvlm, load_lvlm
from llava_hh.models.original import map_weights
from llava_hh.models.original_config import load_tokenizer
from llava_hh.models.weight_files import WeightFile, tensors_of
from llava_hh.runs.identity import checkpoint_files, identify_checkpoint
from tests.support.eager_edits import eager_edits
from tests.support.photos import PHOTOS
from tests.support.photos import assert_same_model as assert_same_files
from tests.support.slow_ablation import ablate_one_by_one, assert_same
from tests.support.tiny_original import (
    CLIP,
    N_WORDS,
    tiny_llava16,
    write_llava15,
    write_llava16,
    write_projector,
    yi_tokens,
)

close = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def original(published, weights, tmp_path_factory) -> Lvlm:
    """The same model from LLaVA's files as they are published: two .bin shards, no tower."""
    folder = tmp_path_factory.mktemp("checkpoints") / "llava-v1.5-tiny"
    return load_lvlm(write_llava15(folder, published.model, weights, n_shards=2))


def assert_same_model(lvlm: Lvlm, published: Lvlm) -> None:
    """Same ids, pixels and logits; same captions, although llava-hf's has rows more."""
    answers = [[5, 6, 7], [300], []]
    batch, expected = (each.encode(PHOTOS, [DESCRIBE, "a dog?", "a"], answers) for each in (lvlm, published))
    mask = expected.inputs["attention_mask"].bool()
    assert torch.equal(batch.inputs["attention_mask"].bool(), mask)
    assert torch.equal(batch.inputs["input_ids"][mask], expected.inputs["input_ids"][mask])
    assert torch.equal(batch.inputs["pixel_values"], expected.inputs["pixel_values"])
    assert torch.equal(batch.image_mask, expected.image_mask)
    with torch.no_grad():
        logits, own = published.model(**expected.inputs).logits[mask], lvlm.model(**batch.inputs).logits[mask]
    assert own.shape[1] == N_WORDS + 1
    assert_close(own[:, :N_WORDS], logits[:, :N_WORDS], **close)
    prompts = [each.encode(PHOTOS, [DESCRIBE] * 3) for each in (lvlm, published)]
    captions, greedy = (generate_greedily(each, own, 8) for each, own in zip((lvlm, published), prompts, strict=True))
    assert captions == greedy
    assert any(answer.token_ids for answer in captions)


@pytest.mark.parametrize("n_shards", [1, 3])
@pytest.mark.parametrize("stem", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("tower_inside", [False, True], ids=["tower-beside", "tower-inside"])
def test_every_layout_is_the_same_model(stem, n_shards, tower_inside, published, weights, tmp_path):
    model_type = "llava_llama" if tower_inside else "llava"
    folder = tmp_path / "instruction-tuning" / "checkpoint-500"
    told = {"model_type": model_type, "use_cache": False}  # off while it was trained
    write_llava15(folder, published.model, weights, stem, n_shards, tower_inside, **told)
    (folder / "training_args.bin").write_bytes(b"no tensors")  # trainers leave these there
    torch.save({"model.mm_projector.0.weight": torch.ones(1)}, folder / "mm_projector.bin")
    if not tower_inside:  # a tower two folders up, beside the folder of all steps
        (folder.parent / CLIP).rename(tmp_path / CLIP)
    lvlm = load_lvlm(folder)
    assert lvlm.model.config.text_config.use_cache
    assert_same_model(lvlm, published)


def test_files_beside_count_where_they_are_read(published, weights, tmp_path, monkeypatch):
    """A tower that the checkpoint holds is none, wherever somebody has downloaded one."""
    folder = write_llava15(tmp_path / "apart" / "llava", published.model, weights)
    projector = write_projector(tmp_path / "base" / "llava-tiny-pretrain", published.model, weights)
    for checkpoint, names in ((folder, {"vision_tower"}), (projector, {"vision_tower", "base"})):
        before = identify_checkpoint(checkpoint)
        beside = {name for name in before["files"] if "/" in name}
        assert {name.split("/")[0] for name in beside} == names
        for path in (path for name, path in checkpoint_files(checkpoint) if name in beside):
            whole = path.read_bytes()
            path.write_bytes(whole + b" ")
            assert identify_checkpoint(checkpoint)["sha256"] != before["sha256"]
            path.write_bytes(whole)
    whole = write_llava15(tmp_path / "whole" / "llava", published.model, weights, tower_inside=True)
    known = identify_checkpoint(whole)
    assert {name for name in known["files"] if "/" in name} <= {"vision_tower/config.json"}
    assert not {name for name in known["files"] if name.startswith("vision_tower/") and "model" in name}


def test_a_projector_on_its_base(published, weights, tmp_path):
    """As figure 5 starts; the base language model is there for figure 4 too, and its text attention the model's."""
    lvlm = load_lvlm(write_projector(tmp_path / "llava-v1.5-tiny-pretrain", published.model, weights))
    assert_same_model(lvlm, published)
    base = load_base(tmp_path / "vicuna-tiny", lvlm)
    blocks = text_blocks(lvlm.model, base, lvlm.encode([None], ["describe the dog"]))
    assert_close(blocks.lvlm, blocks.base, **close)


def test_weights_are_cast_to_the_dtype(published, weights, tmp_path):
    folder = write_llava15(tmp_path / "llava", published.model, weights, torch_dtype="bfloat16")
    assert {weight.dtype for weight in load_lvlm(folder).model.parameters()} == {torch.bfloat16}
    lvlm = load_lvlm(folder, Loading("float64", "auto"))
    assert {weight.dtype for weight in lvlm.model.parameters()} == {torch.float64}
    own = lvlm.model.model.language_model.norm.weight
    assert torch.equal(own, published.model.model.language_model.norm.weight.double())


def test_a_saved_model_is_whole(original, tmp_path):
    """As fine-tuning saves it."""
    original.model.save_pretrained(tmp_path)
    original.processor.save_pretrained(tmp_path)
    assert_same_files(load_lvlm(tmp_path), original)


def test_the_image_has_the_first_id_behind_the_vocabulary(original):
    assert original.model.config.image_token_id == N_WORDS
    assert original.model.generation_config.suppress_tokens == [N_WORDS]
    assert original.end_token_ids == [2]
    assert original.model.generation_config.temperature is None  # greedy is greedy


@pytest.mark.parametrize("text", [f"{vicuna_prompt(DESCRIBE, None)}", "\na  dog, zß ASSISTANT:", "a dog ", ""])
def test_tokens_are_sentencepieces(text, original):
    """What LLaVA's tokenizer is: sentencepiece itself, a BOS before."""
    reference = SentencePieceProcessor(model_file=str(Path(original.tokenizer.name_or_path) / "tokenizer.model"))
    assert original.tokenizer(text).input_ids == [1, *reference.encode(text)]


def test_a_bos_unless_the_tokenizer_says_otherwise(published, weights, tmp_path):
    folder = write_llava15(tmp_path / "llava", published.model, weights)
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": False}))
    without = load_tokenizer(folder)("a dog").input_ids
    (folder / "tokenizer_config.json").write_text("{}")
    assert load_tokenizer(folder)("a dog").input_ids == [1, *without]
    (folder / "tokenizer_config.json").unlink()
    assert load_tokenizer(folder)("a dog").input_ids == [1, *without]


def test_attribution_equals_the_loop(original):
    answer = original.tokenizer.convert_tokens_to_ids(["▁dog", "▁cat", "▁car"])
    batch = original.encode([PHOTOS[0]], [DESCRIBE], [answer])
    start = batch.response_start[0]
    case = (original.model, batch.inputs, [start - 1, start, start + 1], answer)
    assert_same(ablate_every_head(*case, modules=True), ablate_one_by_one(*case, modules=True))


def test_deactivation_and_recording_equal_eager_loops(original):
    batch = original.encode(PHOTOS, [DESCRIBE, "a dog?", "a"], [[5, 6], [7], []])
    heads = [Head(layer, head) for layer in range(original.n_layers) for head in range(original.n_heads)]
    edits = [DeactivateText(heads[1::3], 0.2)]
    with torch.no_grad():
        with eager_edits(original.model, batch.image_mask, edits) as editor:
            expected = original.model(**batch.inputs).logits
        with intervene(original.model, batch.image_mask, edits) as trace:
            logits = original.model(**batch.inputs).logits
        with record(original.model, batch.image_mask, mass=heads, maps=heads) as recorded:
            original.model(**batch.inputs)
        with eager_edits(original.model, batch.image_mask, []):
            maps = original.model(**batch.inputs, output_attentions=True).attentions
    real = batch.inputs["attention_mask"].bool()
    assert_close(logits[real], expected[real], **close)
    assert sum(counts.fired for counts in trace.fired.values()) == sum(editor.fired.values()) > 0
    for layer, own in enumerate(maps):
        assert_close(recorded.maps[layer][0].transpose(1, 2)[real], own.transpose(1, 2)[real], **close)
        image = (own * batch.image_mask[:, None, None]).sum(-1)
        assert_close(recorded.mass[layer][0][..., 0].transpose(1, 2)[real], image.transpose(1, 2)[real], **close)


def test_an_answer_ends_with_any_of_its_end_tokens(published, weights, tmp_path):
    folder = write_llava15(tmp_path / "llava", published.model, weights)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 5]}))
    assert load_lvlm(folder).end_token_ids == [2, 5, 7]
    (folder / "generation_config.json").unlink()
    assert load_lvlm(folder).end_token_ids == [2]


def test_towers_of_earlier_transformers_have_an_inner_model(tmp_path):
    """transformers 5 has no `vision_model` inside the tower; where a model has it, its names do."""
    torch.save({"model.vision_tower.vision_tower.vision_model.weight": torch.ones(1)}, tmp_path / "file.bin")
    stored = tensors_of([WeightFile(tmp_path / "file.bin")])
    for name in ("model.vision_tower.vision_model.weight", "model.vision_tower.weight"):
        assert map_weights(Path("folder"), {name: torch.ones(1)}, stored, [], N_WORDS) == {name: stored[0]}


# --- LLaVA-1.6


@pytest.fixture(scope="module")
def next_folder(tmp_path_factory) -> Path:
    tokens = yi_tokens()
    folder = tmp_path_factory.mktemp("checkpoints") / "llava-v1.6-tiny"
    return write_llava16(folder, tiny_llava16(len(tokens)), tokens)


def test_llava16_is_the_model_that_transformers_builds(next_folder):
    """Pinpoints turned to (height, width), a newline after each row, tokens as the processor expands them."""
    assert model_type_of(next_folder) == "llava_next"
    built = tiny_llava16(len(yi_tokens()))
    with torch.no_grad():
        for weight in (built.lm_head.weight, built.model.language_model.embed_tokens.weight):
            weight[-1] = 0  # the row that LLaVA's vocabulary lacks
    model, processor = load_checkpoint(LlavaNextForConditionalGeneration, next_folder)
    assert model.config.image_grid_pinpoints == [[56, 28], [28, 56], [56, 56]]
    text = "<|im_start|>user\n<image>\na dog<|im_end|><|im_start|>assistant\n"
    inputs = processor(images=PHOTOS, text=[text] * 3, padding=True, padding_side="left", return_tensors="pt")
    # base view, then tiles without their padding and a newline for each row; by hand for 64x48, 30x70 and 50x50
    assert (inputs["input_ids"] == len(yi_tokens())).sum(1).tolist() == [4 + 4 * 5, 4 + 4 * 3, 4 + 4 * 5]
    with torch.no_grad():
        logits, expected = model(**inputs).logits, built(**inputs).logits
    real = inputs["attention_mask"].bool()
    assert_close(logits[real], expected[real], **close)
    assert model.generation_config.eos_token_id == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")


@pytest.mark.parametrize("text", ["a dog", "Answer the dog", "\na dog", " a", "q ß"])
def test_yis_tokens_are_sentencepieces(text, next_folder):
    """No blank before a text, no BOS; around tokens of chatml too."""
    tokenizer = load_checkpoint(LlavaNextForConditionalGeneration, next_folder)[1].tokenizer
    reference = SentencePieceProcessor(model_file=str(next_folder / "tokenizer.model"))
    assert tokenizer(text).input_ids == reference.encode(text)
    chat = f"<|im_start|>user\n{text}<|im_end|>{text}"
    assert tokenizer(chat).input_ids == reference.encode(chat)
    assert tokenizer.chat_template is None


def test_the_known_tower_needs_no_folder(tmp_path):
    """llava-v1.6-34b holds its tower, whose sizes follow from its name."""
    tokens = yi_tokens()
    folder = write_llava16(tmp_path / "llava", tiny_llava16(len(tokens)), tokens)
    fields = json.loads((folder / "config.json").read_text())
    fields["mm_vision_tower"] = "openai/clip-vit-large-patch14-336"
    (folder / "config.json").write_text(json.dumps(fields))
    # the tiny tower is found too small for openai's, without any folder asked for
    with pytest.raises(ValueError, match=r"weights missing: model\.vision_tower\.encoder\.layers\.10\."):
        load_config(folder)
