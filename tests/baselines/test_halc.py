"""HALC's loop against a slow one without caches, on random models, with a scripted detector and scorer."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llava_hh.baselines import dola, halc
from llava_hh.baselines.halc.words import checked_word
from llava_hh.decoding.generation import answer_samples
from llava_hh.decoding.method import Decoding
from llava_hh.models.lvlm import DESCRIBE, Lvlm, load_lvlm
from tests.support.decoding import answers_of
from tests.support.slow_halc import N_TOKENS, SETTINGS, Detector, loop, photo, slow_halc, use
from tests.support.tiny_llava15 import save_tiny_llava15


@pytest.fixture(scope="module", params=["words", "llama pieces"])
def lvlm(request, tiny_checkpoint, tmp_path_factory) -> Lvlm:
    folder = tiny_checkpoint
    if request.param != "words":
        folder = tmp_path_factory.mktemp("llava15") / "model"
        save_tiny_llava15(folder)
    return load_lvlm(folder)


def answers(lvlm: Lvlm, images: list, prompts: list[str], settings: object, decode, n_tokens: int = N_TOKENS) -> list:
    batch = lvlm.encode(images, prompts, sample_ids=[f"sample {row}" for row in range(len(images))])
    return [answer.token_ids for answer in answers_of(lvlm, batch, decode, settings, n_tokens)]


def test_equals_a_loop_without_caches(lvlm, monkeypatch):
    use(monkeypatch, Detector())
    images = [photo(seed) for seed in range(5)]
    prompts = [DESCRIBE, "describe the cat", DESCRIBE, "a dog", DESCRIBE]
    seen = Counter()
    expected = [
        slow_halc(lvlm, image, prompt, SETTINGS, random.Random(f"42 sample {row}"), seen)
        for row, (image, prompt) in enumerate(zip(images, prompts, strict=True))
    ]
    assert answers(lvlm, images, prompts, SETTINGS, halc.decode) == expected
    assert min(seen[kind] for kind in ("replaced", "kept", "too many", "unchecked")) > 0, seen


def test_words_without_a_box_are_left_out(lvlm, monkeypatch):
    """The windows choose the word's own token where the scorer likes nothing else."""
    use(monkeypatch, Detector(always=0))
    monkeypatch.setattr(loop, "contrast_windows", lambda logits, *_: [first_choice(logits)])
    images, prompts = [photo(seed) for seed in range(3)], [DESCRIBE] * 3
    plain = []

    def first_choice(logits):
        return plain[-1]

    real = loop.Caption._choose

    def own_token(caption, box):
        plain.append(caption.ids[caption.word_start])
        return real(caption, box)

    monkeypatch.setattr(loop.Caption, "_choose", own_token)
    found = answers(lvlm, images, prompts, SETTINGS, halc.decode)
    bases = answers(lvlm, images, prompts, SETTINGS.base, dola.decode)
    for own, base in zip(found, bases, strict=True):
        words = [lvlm.tokenizer.decode([token]).strip() for token in base]
        # the first seven words stay, and the last, which had no end yet; of the others only what is no noun
        assert own == [
            token
            for place, (token, word) in enumerate(zip(base, words, strict=True))
            if place < 7 or place == N_TOKENS - 1 or checked_word(word, word, SETTINGS, random.Random(0)) is None
        ]
        assert len(own) < len(base) == N_TOKENS


@pytest.mark.parametrize("always", [4, 5])
def test_nothing_checked_is_dola(lvlm, monkeypatch, always):
    use(monkeypatch, detector := Detector(always))
    images = [photo(0), None, photo(1), photo(2)]
    prompts = [DESCRIBE, "describe a dog", "describe the cat", DESCRIBE]
    expected = answers(lvlm, images, prompts, SETTINGS.base, dola.decode)
    assert answers(lvlm, images, prompts, SETTINGS, halc.decode) == expected
    assert detector.asked
    use(monkeypatch, detector := Detector(1))
    assert answers(lvlm, images, prompts, replace(SETTINGS, skip_rate=1), halc.decode) == expected
    assert answers(lvlm, [None] * 4, prompts, SETTINGS, halc.decode) == answers(
        lvlm, [None] * 4, prompts, SETTINGS.base, dola.decode
    )
    assert not detector.asked


def test_rows_and_chance_do_not_depend_on_the_batch(lvlm, monkeypatch):
    use(monkeypatch, Detector())
    settings = replace(SETTINGS, skip_rate=0.5, variant="released")
    samples = [{"image_id": 7 * row} for row in range(4)]
    images = [photo(row) for row in range(4)]
    method = Decoding("halc", halc.decode, settings)
    together = [
        answer.token_ids for answer in answer_samples(lvlm, samples, images, method, DESCRIBE, N_TOKENS).answers
    ]
    for sample, image, expected in zip(samples, images, together, strict=True):
        alone = answer_samples(lvlm, [sample], [image], method, DESCRIBE, N_TOKENS).answers
        assert alone[0].token_ids == expected
    other = replace(method, settings=replace(settings, seed=43))
    assert [
        answer.token_ids for answer in answer_samples(lvlm, samples, images, other, DESCRIBE, N_TOKENS).answers
    ] != together


def test_released_captions_end_after_nine_repetitions(lvlm, monkeypatch):
    use(monkeypatch, Detector(5))
    word = next(token for token in answers(lvlm, [photo(0)], [DESCRIBE], SETTINGS, halc.decode)[0])
    scores = torch.zeros(1, lvlm.model.config.get_text_config().vocab_size)
    scores[0, word] = 1
    monkeypatch.setattr(loop, "layer_scores", lambda *_: scores)
    released = replace(SETTINGS, variant="released")
    assert answers(lvlm, [photo(0)], [DESCRIBE], released, halc.decode, 30) == [[word] * 10]
    assert answers(lvlm, [photo(0)], [DESCRIBE], SETTINGS, halc.decode, 30) == [[word] * 30]


def test_wrong_calls(lvlm, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no config.json there; get IDEA-Research"):
        answers(lvlm, [photo(0)], [DESCRIBE], replace(SETTINGS, detector=str(tmp_path)), halc.decode)
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1"):
        answers(lvlm, [photo(0)], [DESCRIBE], SETTINGS, halc.decode, 0)
