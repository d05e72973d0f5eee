"""The tokens of yes and no."""

import pytest

from llava_hh.decoding.yes_no import word_token_ids
from llava_hh.models.lvlm import load_lvlm
from tests.support.tiny_checkpoint import N_WORDS, save_polled_checkpoint


def test_words_are_whole_tokens(tiny_checkpoint, tmp_path):
    save_polled_checkpoint(tiny_checkpoint, tmp_path / "polled")
    found = word_token_ids(load_lvlm(tmp_path / "polled"))
    assert found == {"yes": [N_WORDS, N_WORDS + 1], "no": [N_WORDS + 2, N_WORDS + 3]}
    lvlm = load_lvlm(tiny_checkpoint)  # all of these words are <unk> there
    with pytest.raises(ValueError, match="the tokenizer has no token for the word yes"):
        word_token_ids(lvlm)
