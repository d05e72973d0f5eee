"""What a checkpoint says about decoding: its token ids count, in every family; whatever else its files ask for doesn't.

The right tokens are those of a loop over whole uncached passes, one row at a time.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from llava_hh.baselines import greedy
from llava_hh.baselines.stepping import Stepper
from llava_hh.data.coco import load_image_list
from llava_hh.decoding.method import Greedy, generate_greedily
from llava_hh.decoding.yes_no import ask
from llava_hh.models.lvlm import FAMILIES as SUPPORTED
from llava_hh.models.lvlm import Lvlm, load_lvlm
from llava_hh.runs.run import start_run
from tests.support.questions import IMAGES, QUESTIONS, SHOWN
from tests.support.seeded import Seeded
from tests.support.tiny_checkpoint import save_polled_checkpoint, save_tiny_checkpoint
from tests.support.tiny_llava15 import save_tiny_llava15
from tests.support.tiny_minigpt4 import save_tiny_parts
from tests.support.tiny_newer import FAMILIES, save_tiny_family
from tests.support.tiny_original import CLIP, N_WORDS, original_weights, write_llava15

N_TOKENS = 5
WORD = 40  # an object in all of the tiny vocabularies
# what generation_config.json may ask for; {} stands for the others together
SETTINGS: dict[str, object] = {
    "num_beams": 3,
    "num_return_sequences": 2,
    "guidance_scale": 3.0,
    "min_new_tokens": N_TOKENS,
    "max_length": 2,
    "bad_words_ids": [[word] for word in range(20, 60)],
    "sequence_bias": [[[WORD], 50.0]],
    "watermarking_config": {"greenlist_ratio": 0.3, "bias": 30.0},
    "repetition_penalty": 5.0,
    "encoder_repetition_penalty": 5.0,
    "no_repeat_ngram_size": 1,
    "exponential_decay_length_penalty": [1, 50.0],
    "begin_suppress_tokens": list(range(20, 60)),
    "forced_eos_token_id": WORD,
    "stop_strings": ["dog"],
    "penalty_alpha": 0.6,
    "dola_layers": "high",
    "do_sample": True,
    "temperature": 9.0,
    "early_stopping": "nonsense",
    "return_dict_in_generate": True,
    "output_scores": True,
    "cache_implementation": "static",
    "prefill_chunk_size": 3,
    "prompt_lookup_num_tokens": 3,
    "use_cache": False,
}
# what an old config.json may ask for, at its top and of its language model
LEGACY = {name: SETTINGS[name] for name in ("num_beams", "repetition_penalty", "bad_words_ids", "use_cache")}


def save_original(folder: Path) -> Path:
    save_tiny_llava15(folder / "hf")
    model = load_lvlm(folder / "hf").model
    tower = str(folder / CLIP)
    return write_llava15(folder / "llava-v1.5", model, original_weights(model, N_WORDS), mm_vision_tower=tower)


def save_minigpt4(folder: Path) -> Path:
    folder.mkdir()
    save_tiny_parts(folder)
    return folder / "minigpt4"


def save_whole_minigpt4(folder: Path) -> None:
    lvlm = load_lvlm(save_minigpt4(folder.with_name("parts")))
    lvlm.model.save_pretrained(folder)
    lvlm.processor.save_pretrained(folder)


CHECKPOINTS: dict[str, Callable[[Path], Path | None]] = {
    **{name: partial(save_tiny_family, name) for name in FAMILIES},
    "llava": save_tiny_checkpoint,
    "llava15": save_tiny_llava15,
    "original": save_original,
    "minigpt4": save_minigpt4,
    "minigpt4_whole": save_whole_minigpt4,
}


def change(path: Path, settings: dict) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | settings))


def changed_copy(source: Path, folder: Path, settings: dict, legacy: dict | None = None) -> Path:
    """A copy of a checkpoint whose generation settings are others; those of MiniGPT-4's parts are its Llama's."""
    is_parts = source.name == "minigpt4"
    shutil.copytree(source.parent if is_parts else source, folder)
    settled = folder / "llama" if is_parts else folder
    change(settled / "generation_config.json", settings)
    if legacy:
        change(settled / "config.json", legacy)
        text = json.loads((settled / "config.json").read_text()).get("text_config")
        if text:
            change(settled / "config.json", {"text_config": text | legacy})
    return folder / "minigpt4" if is_parts else folder


def images_of(lvlm: Lvlm) -> list[Image.Image | None]:
    return SHOWN if lvlm.model.config.model_type == "mllama" else IMAGES


@torch.no_grad()
def most_likely(lvlm: Lvlm, suppressed: Sequence[int], ends: Sequence[int]) -> list[list[int]]:
    """The most likely token of one whole pass after the other, each row alone, by these ids and no setting."""
    rows = []
    for image, question in zip(images_of(lvlm), QUESTIONS, strict=True):
        answer: list[int] = []
        while len(answer) < N_TOKENS:
            inputs = lvlm.encode([image], [question], [answer]).inputs
            logits = lvlm.model(**inputs, use_cache=False).logits[0, -1]
            logits[list(suppressed)] = -torch.inf
            if (token := int(logits.argmax())) in ends:
                break
            answer.append(token)
        rows.append(answer)
    return rows


def answers_of(lvlm: Lvlm) -> tuple[list[list[int]], list[int]]:
    """Greedy answers, and how many positions each pass of the first layer had."""
    lengths: list[int] = []

    def note(_: object, args: tuple, kwargs: dict) -> None:
        lengths.append((args[0] if args else kwargs["hidden_states"]).shape[1])

    handle = lvlm.decoder_layers[0].register_forward_pre_hook(note, with_kwargs=True)
    answers = generate_greedily(lvlm, lvlm.encode(images_of(lvlm), QUESTIONS), N_TOKENS)
    handle.remove()
    return [answer.token_ids for answer in answers], lengths


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Callable[[str], Path]:
    folders: dict[str, Path] = {}

    def save(name: str) -> Path:
        if name not in folders:
            folder = tmp_path_factory.mktemp("checkpoints") / name
            folders[name] = CHECKPOINTS[name](folder) or folder
        return folders[name]

    return save


def check_greedy(folder: Path) -> None:
    lvlm = load_lvlm(folder)
    config = lvlm.model.generation_config
    expected = most_likely(lvlm, config.suppress_tokens or [], lvlm.end_token_ids)
    answers, lengths = answers_of(lvlm)
    assert answers == expected
    assert lengths[0] > 1 and set(lengths[1:]) == {1}, "a pass over the whole sequence for each token"
    batch = lvlm.encode(images_of(lvlm), QUESTIONS)
    settings = greedy.GreedySettings()
    assert greedy.decode(lvlm, batch, settings, N_TOKENS) == expected


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_family_takes_the_most_likely_token(name, saved, tmp_path):
    """All settings at once: in generation_config.json, at the top of config.json and in its text_config."""
    plain = load_lvlm(saved(name))
    folder = changed_copy(saved(name), tmp_path / name, SETTINGS, LEGACY)
    check_greedy(folder)
    lvlm = load_lvlm(folder)
    assert answers_of(lvlm) == answers_of(plain)
    for field in ("bos_token_id", "eos_token_id", "pad_token_id", "suppress_tokens"):
        own, other = (getattr(each.model.generation_config, field) for each in (lvlm, plain))
        assert own == other, field
    (tmp_path / "again").mkdir()
    lvlm.model.save_pretrained(tmp_path / "again")  # as fine-tuning does, after hours


def test_these_are_all_families(saved):
    assert {load_lvlm(saved(name)).model.config.model_type for name in CHECKPOINTS} == set(SUPPORTED) - {
        "llava_harness"
    }  # which loads a llava


@pytest.mark.parametrize("field", SETTINGS)
def test_each_setting_alone_changes_nothing(field, saved, tmp_path):
    check_greedy(changed_copy(saved("llava_next"), tmp_path / "changed", {field: SETTINGS[field]}))


@pytest.mark.parametrize("name", ["llava_next", "mllama", "chameleon", "llava"])
def test_without_the_file_the_ids_of_the_config_count(name, saved, tmp_path):
    """The settings that an old config.json holds don't, as they would in transformers."""
    folder = changed_copy(saved(name), tmp_path / name, {}, LEGACY | {"eos_token_id": [3, WORD]})
    (folder / "generation_config.json").unlink()
    check_greedy(folder)
    assert load_lvlm(folder).end_token_ids == [3, WORD]


def test_what_the_file_leaves_open_the_config_and_the_tokenizer_say(saved, tmp_path):
    for number, (config, expected) in enumerate((({"eos_token_id": WORD}, WORD), ({"eos_token_id": None}, None))):
        folder = changed_copy(saved("llava_next"), tmp_path / f"folder_{number}", {}, config)
        text = json.loads((folder / "config.json").read_text())
        text["text_config"]["eos_token_id"] = None
        (folder / "config.json").write_text(json.dumps(text))
        (folder / "generation_config.json").write_text("{}")
        lvlm = load_lvlm(folder)
        assert lvlm.end_token_ids == [lvlm.tokenizer.eos_token_id if expected is None else expected]
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": None}))
    with pytest.raises(ValueError, match="no eos_token_id in generation_config.json, config.json or the tokenizer"):
        load_lvlm(folder)


def test_padding_of_the_file_has_an_embedding(saved, tmp_path):
    folder = changed_copy(saved("llava_next"), tmp_path / "folder", {"pad_token_id": 99_999})
    with pytest.raises(ValueError, match="99999.* is beyond the model's .* embeddings"):
        load_lvlm(folder)


def test_several_end_tokens(saved, tmp_path):
    ends = sorted({row[2] for row in answers_of(load_lvlm(saved("llava")))[0]})
    folder = changed_copy(saved("llava"), tmp_path / "llava", SETTINGS | {"eos_token_id": ends})
    check_greedy(folder)
    assert load_lvlm(folder).end_token_ids == ends


def test_probabilities_of_yes_are_those_of_the_question(tiny_checkpoint, tiny_coco, tmp_path):
    """Three beams, a prompt in chunks or a pass for every token gave a question the probability of another."""
    save_polled_checkpoint(tiny_checkpoint, tmp_path / "polled")
    names = [row["file_name"] for row in load_image_list(tiny_coco / "annotations/captions_val2014.json")[:4]]
    questions = [{"question_id": n, "image_id": n, "image": name, "text": f"a {n}"} for n, name in enumerate(names)]
    found = []
    for number, settings in enumerate(({}, {"num_beams": 3}, {"use_cache": False}, {"prefill_chunk_size": 3})):
        lvlm = load_lvlm(changed_copy(tmp_path / "polled", tmp_path / f"changed_{number}", settings))
        with start_run(tmp_path / f"run_{number}", Seeded(), list(range(4))) as run:
            settings = {"suffix": "", "max_new_tokens": 3, "batch_size": 4, "method": Greedy()}
            rows = ask(lvlm, questions, tiny_coco / "val2014", run, **settings)
        found.append([(row["p_yes"], row["token_ids"]) for row in rows])
    assert all(own == found[0] for own in found)
    assert len({p_yes for p_yes, _ in found[0]}) > 1


@pytest.mark.parametrize("name", ["llava", "original", "minigpt4", "qwen2_5_vl"])
@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("eos_token_id", "</s>", "token ids"),
        ("eos_token_id", [2, True], "token ids"),
        ("eos_token_id", -1, "token ids"),
        ("eos_token_id", [], "token ids"),
        ("pad_token_id", [0], "a token id"),
        ("bos_token_id", 2**31, "a token id"),
        ("suppress_tokens", 3, "a list of token ids"),
        ("suppress_tokens", [3, 1.5], "a list of token ids"),
    ],
)
def test_ids_that_cannot_be_are_one_line(name, field, value, expected, saved, tmp_path):
    folder = changed_copy(saved(name), tmp_path / name, {field: value})
    file = (folder.parent / "llama" if name == "minigpt4" else folder) / "generation_config.json"
    with pytest.raises(ValueError, match=f"{field} is ") as error:
        load_lvlm(folder)
    assert str(error.value) == f"{file}: {field} is {value!r}; expected {expected}"


def test_a_file_that_is_no_object(saved, tmp_path):
    folder = changed_copy(saved("llava"), tmp_path / "llava", {})
    (folder / "generation_config.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"generation_config\.json: expected a JSON object, found a list"):
        load_lvlm(folder)


def test_decoders_suppress_what_the_file_says(saved, tmp_path):
    most = answers_of(load_lvlm(saved("llava")))[0][0][0]
    lvlm = load_lvlm(changed_copy(saved("llava"), tmp_path / "llava", {"suppress_tokens": [most]}))
    batch = lvlm.encode(IMAGES[:1], QUESTIONS[:1])
    assert torch.isneginf(Stepper(lvlm.model, batch.inputs).step()[0, most])
