"""AD-HH and PAI's boost edit the same rows however `generate` runs: cached, whole, in chunks, with proposed tokens."""

import pytest
import torch
from transformers import DynamicCache

from llava_hh.attention.hooks import intervene, record
from llava_hh.attention.interventions import BoostImageScores, DeactivateText, ScaleAttention
from llava_hh.attention.layer_edits import AddConsensus, ScaleScores, SuppressBlindHeads
from llava_hh.heads import Head
from llava_hh.models.lvlm import Lvlm, load_lvlm
from llava_hh.portable import generate as portable
from tests.support.questions import IMAGES, QUESTIONS, SHOWN, draw_image
from tests.support.tiny_newer import FAMILIES, save_tiny_family

N_TOKENS = 10
HEADS = (Head(0, 1), Head(0, 2), Head(2, 0), Head(2, 3))  # mllama's layer 1 attends to the image alone
LAYERS = tuple(Head(layer, head) for layer in (0, 2) for head in range(4))
ADHH = [DeactivateText(HEADS, 0.3)]
EDITS = {
    "adhh": ADHH,
    "boost": [BoostImageScores(HEADS, 3.0)],
    "layers": [AddConsensus(LAYERS, 1.5), ScaleScores(LAYERS, 2.0, 0.5), SuppressBlindHeads(LAYERS[:4], 0.5, 0.0)],
    "both": [BoostImageScores(HEADS[:3], 2.0), DeactivateText(HEADS, 0.3), ScaleAttention(HEADS[:1], 0.5)],
}
MODES = {
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "chunks of 3": {"prefill_chunk_size": 3},
    "chunks of 5": {"prefill_chunk_size": 5},
    "chunks of 8": {"prefill_chunk_size": 8},
    "chunks of 1": {"prefill_chunk_size": 1},
}
PROPOSALS = {"prompt lookup": {"prompt_lookup_num_tokens": 4}, "own assistant": {"assistant_model": "itself"}}
# where the model itself cannot: no cache of cross-attention is cropped; Gemma 3 sees its image both ways at once
WITHOUT = {"mllama": [*[mode for mode in MODES if "chunks" in mode], *PROPOSALS]}
WITHOUT["gemma3"] = [mode for mode in MODES if "chunks" in mode]


@pytest.fixture(scope="module")
def lvlm_of(tmp_path_factory):
    loaded: dict[str, Lvlm] = {}

    def load(name: str) -> Lvlm:
        if name not in loaded:
            folder = tmp_path_factory.mktemp("families") / name
            save_tiny_family(name, folder)
            loaded[name] = load_lvlm(folder)
        return loaded[name]

    return load


def decode(model, inputs, settings, image_mask=None, edits=(), through=None):
    """Token ids, and what the block saw."""
    model.generation_config.eos_token_id = None  # every mode decodes N_TOKENS
    settings = {"max_new_tokens": N_TOKENS, "do_sample": False, "repetition_penalty": 1.0} | settings
    if settings.get("assistant_model") == "itself":
        settings["assistant_model"] = model
    if "prefill_chunk_size" in settings:
        settings["past_key_values"] = DynamicCache(config=model.config.get_text_config())
    if through is not None:
        return through(model=model, **inputs, **settings), None
    if not edits:
        return model.generate(**inputs, **settings), None
    with intervene(model, image_mask, edits) as trace:
        ids = model.generate(**inputs, **settings)
    return ids, trace.fired


@pytest.fixture(scope="module")
def cached_steps(lvlm_of):
    """The batch of a family, or one row of it; what cached steps make of it without an edit, and by each of EDITS."""
    known = {}

    def steps(name: str, is_single: bool):
        if (name, is_single) not in known:
            lvlm = lvlm_of(name)
            images = [draw_image(0, 20, 12)] if is_single else SHOWN if name == "mllama" else IMAGES
            batch = lvlm.encode(images, QUESTIONS[2:3] if is_single else QUESTIONS)
            plain, _ = decode(lvlm.model, batch.inputs, {})
            by_kind = {kind: decode(lvlm.model, batch.inputs, {}, batch.image_mask, own) for kind, own in EDITS.items()}
            known[name, is_single] = batch, plain, by_kind
        return known[name, is_single]

    return steps


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("mode", [*MODES, *PROPOSALS])
def test_tokens_do_not_depend_on_the_mode(name, mode, lvlm_of, cached_steps):
    model, settings = lvlm_of(name).model, (MODES | PROPOSALS)[mode]
    batch, plain, by_kind = cached_steps(name, mode in PROPOSALS)  # tokens are proposed to single rows alone
    if mode in WITHOUT.get(name, ()):
        if name == "gemma3":
            assert not torch.equal(decode(model, batch.inputs, settings)[0], plain)
        else:
            with pytest.raises((ValueError, RuntimeError), match="Chunked prefill cannot split|must match the size"):
                decode(model, batch.inputs, settings)  # without any edit
        return
    assert torch.equal(decode(model, batch.inputs, settings)[0], plain)
    for kind, edits in EDITS.items():
        expected, fired = by_kind[kind]
        found, fired_here = decode(model, batch.inputs, settings, batch.image_mask, edits)
        assert torch.equal(found, expected), kind
        assert fired_here == fired, kind
        if kind == "adhh":
            assert 0 < sum(count.fired for count in fired.values()) < sum(count.decided for count in fired.values())
            exported, _ = decode(
                model,
                batch.inputs,
                settings,
                through=lambda **all: portable.generate(heads=HEADS, threshold=0.3, **all),
            )
            assert torch.equal(exported, expected)


@pytest.mark.parametrize("mode", PROPOSALS)
def test_proposals_behind_the_end_are_not_counted(mode, lvlm_of):
    lvlm = lvlm_of("llava_next")
    batch = lvlm.encode([draw_image(0, 20, 12)], QUESTIONS[2:3])
    expected, _ = decode(lvlm.model, batch.inputs, {}, batch.image_mask, ADHH)
    n_prompt = batch.image_mask.shape[1]
    for length in range(1, N_TOKENS):
        end = {"eos_token_id": int(expected[0, n_prompt + length - 1]), "pad_token_id": 0}
        found, fired = decode(lvlm.model, batch.inputs, PROPOSALS[mode] | end, batch.image_mask, ADHH)
        stepwise, fired_stepwise = decode(lvlm.model, batch.inputs, end, batch.image_mask, ADHH)
        assert torch.equal(found, stepwise)
        assert fired == fired_stepwise
        assert {count.decided for count in fired.values()} == {found.shape[1] - n_prompt}


@torch.no_grad()
def test_a_second_turn_needs_its_own_block(lvlm_of):
    lvlm = lvlm_of("llava_next")
    model, batch = lvlm.model, lvlm.encode([draw_image(0, 20, 12)], QUESTIONS[2:3])
    settings = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True}
    model.generation_config.eos_token_id = None
    question = torch.tensor([[30, 41, 52, 63]])
    with intervene(model, batch.image_mask, ADHH):
        first = model.generate(**batch.inputs, **settings)
        whole = torch.cat([first.sequences, question], 1)
        again = {"input_ids": whole, "attention_mask": torch.ones_like(whole), "past_key_values": first.past_key_values}
        with pytest.raises(ValueError, match=f"the prompt has {whole.shape[1]} positions, image_mask "):
            model.generate(**again, **settings)
        new_ids = again | {"input_ids": whole[:, first.past_key_values.get_seq_length() :]}
        with pytest.raises(ValueError, match=f"the prompt has {whole.shape[1]} positions, image_mask "):
            model.generate(**new_ids, **settings)
    image_mask = torch.nn.functional.pad(batch.image_mask, (0, whole.shape[1] - batch.image_mask.shape[1]))
    with intervene(model, image_mask, ADHH) as trace:
        second = model.generate(**again, **settings)
    assert {count.decided for count in trace.fired.values()} == {4}
    assert second.sequences.shape[1] == whole.shape[1] + 4
    with pytest.raises(ValueError, match="AD-HH needs the whole prompt's input_ids"):
        portable.generate(model=model, heads=HEADS, **new_ids, max_new_tokens=4)


def test_only_rows_that_answer_and_images_need_the_prompt(lvlm_of):
    """A scale acts on every row, so a further turn of text will do, an image won't; and nothing of the guard stays."""
    lvlm = lvlm_of("llava_next")
    batch = lvlm.encode([draw_image(0, 20, 12)], QUESTIONS[2:3])
    longer = torch.nn.functional.pad(batch.image_mask, (0, 1))
    text = {name: tensor for name, tensor in batch.inputs.items() if name in ("input_ids", "attention_mask")}
    text["input_ids"] = text["input_ids"].masked_fill(batch.image_mask, 7)
    turn = {name: torch.cat([tensor, tensor[:, -3:]], dim=1) for name, tensor in text.items()}
    embedded = {**turn, "inputs_embeds": lvlm.model.get_input_embeddings()(turn["input_ids"])}
    del embedded["input_ids"]
    scale = [ScaleAttention(HEADS, 0.5)]
    for edits, inputs, is_refused in (
        (EDITS["boost"], batch.inputs, True),
        (EDITS["boost"], text, True),
        (scale, batch.inputs, True),
        (scale, text, True),  # shorter than image_mask: another conversation
        (scale, embedded, True),
        (scale, turn, True),  # no kept cache: another conversation as well
    ):
        with intervene(lvlm.model, longer, edits):
            try:
                lvlm.model.generate(**inputs, max_new_tokens=2)
            except ValueError:
                assert is_refused
                lvlm.model(**batch.inputs)
            else:
                assert not is_refused
        assert "generate" not in vars(lvlm.model)


def test_images_elsewhere_than_known_are_refused_at_the_same_length(lvlm_of):
    lvlm = lvlm_of("llava_next")
    image, long, short = draw_image(0, 20, 12), QUESTIONS[2], QUESTIONS[2][: len(QUESTIONS[2]) // 2]
    batch, other = (lvlm.encode([image, image], questions) for questions in ([long, short], [short, long]))
    assert batch.image_mask.shape == other.image_mask.shape and not batch.image_mask.equal(other.image_mask)
    for block in (
        intervene(lvlm.model, batch.image_mask, [ScaleAttention(HEADS, 3.0)]),
        record(lvlm.model, batch.image_mask, mass=HEADS),
    ):
        with block:
            with pytest.raises(ValueError, match="image tokens stand elsewhere in the prompt than in image_mask"):
                lvlm.model.generate(**other.inputs, max_new_tokens=2)
            lvlm.model.generate(**batch.inputs, max_new_tokens=2)


def test_a_longer_prompt_without_a_kept_cache_is_another_conversation(lvlm_of):
    lvlm = lvlm_of("llava_next")
    batch = lvlm.encode([draw_image(0, 20, 12)], QUESTIONS[2:3])
    text = lvlm.encode([None], [QUESTIONS[2] * 30])
    assert text.image_mask.shape[1] > batch.image_mask.shape[1]
    with record(lvlm.model, batch.image_mask, mass=HEADS):
        with pytest.raises(ValueError, match="the prompt has "):
            lvlm.model.generate(**text.inputs, max_new_tokens=2)
        lvlm.model(**batch.inputs)


@pytest.mark.parametrize("first", ["by hand", "generate"])
def test_forwards_by_hand_beside_generate_are_counted(first, lvlm_of):
    lvlm = lvlm_of("llava_next")
    lvlm.model.generation_config.eos_token_id = None
    batch = lvlm.encode([draw_image(0, 20, 12)], QUESTIONS[2:3])

    def steps():
        yield lambda: lvlm.model(**batch.inputs)
        yield lambda: lvlm.model.generate(**batch.inputs, max_new_tokens=3, do_sample=False)

    with torch.no_grad(), intervene(lvlm.model, batch.image_mask, ADHH) as trace:
        for step in steps() if first == "by hand" else reversed([*steps()]):
            step()
    assert {count.decided for count in trace.fired.values()} == {1 + 3}


def test_a_call_that_failed_does_not_count(lvlm_of):
    lvlm = lvlm_of("llava_next")
    batch = lvlm.encode([draw_image(0, 20, 12)], QUESTIONS[2:3])

    def fail(ids, scores):
        if ids.shape[1] > batch.image_mask.shape[1] + 2:
            raise RuntimeError("mine")
        return scores

    with intervene(lvlm.model, batch.image_mask, ADHH) as trace:
        with pytest.raises(RuntimeError, match="mine"):
            decode(lvlm.model, batch.inputs, {"num_beams": 2, "logits_processor": [fail]})
        decode(lvlm.model, batch.inputs, {})
    assert {count.decided for count in trace.fired.values()} == {N_TOKENS}


def test_each_call_of_generate_counts(lvlm_of):
    lvlm = lvlm_of("llava_next")
    batch = lvlm.encode([draw_image(0, 20, 12)], QUESTIONS[2:3])
    _, once = decode(lvlm.model, batch.inputs, {}, batch.image_mask, ADHH)
    _, short = decode(lvlm.model, batch.inputs, {"max_new_tokens": 2}, batch.image_mask, ADHH)
    with intervene(lvlm.model, batch.image_mask, ADHH) as trace:
        decode(lvlm.model, batch.inputs, {})
        assert trace.fired == once
        decode(lvlm.model, batch.inputs, {"max_new_tokens": 2})
        decode(lvlm.model, batch.inputs, {"num_beams": 2, "max_new_tokens": 2})
    assert {count.decided for count in trace.fired.values()} == {N_TOKENS + 2 + 2 * 2}
    assert all(trace.fired[head].fired >= once[head].fired + short[head].fired for head in HEADS)


@torch.no_grad()
def test_a_boost_of_cross_attention_is_refused(lvlm_of):
    lvlm = lvlm_of("mllama")
    batch = lvlm.encode(SHOWN, QUESTIONS)
    boost = [BoostImageScores([Head(1, 0)], 1.0)]
    with (
        pytest.raises(ValueError, match="BoostImageScores cannot act on L1H0"),
        intervene(lvlm.model, batch.image_mask, boost),
    ):
        pass
