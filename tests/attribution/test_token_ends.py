"""Targets behind characters of several tokens, by how pieces spell the text: byte fallback, byte level, WordPiece."""

from random import Random

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from llava_hh.attribution.targets import find_targets, token_ends
from llava_hh.baselines.halc.words import added_text
from llava_hh.experiments.measures.word_maps import token_texts
from llava_hh.metrics.chair.chair import score_caption
from tests.support.spelling import check_targets
from tests.support.tiny_llava15 import llama_tokenizer

WORDS = ["dog", "pizza", "cat", "a", "and", "the", "traffic", "light"]
# a character of one, three and four bytes, sequences of several characters, and what is none
BETWEEN = [
    "🍕",
    "❤️",
    "🇩🇪",
    "🇩🇪🇫🇷",
    "👩‍👩‍👧",
    "龘",
    "龘靐",
    "é",
    "…",
    "  ",
    "\n",
    "\n\n",
    "\t",
    " . ",
    ", ",
    "n't ",
    "\ufffd",
    "",
]


def byte_fallback() -> PreTrainedTokenizerBase:
    """As Llama's: pieces with "▁" for a blank, and 256 bytes for what they lack."""
    return llama_tokenizer([f"▁{word}" for word in WORDS])


def byte_level() -> PreTrainedTokenizerBase:
    """As GPT's and Qwen's: every piece is bytes; those of an emoji and of two words are pieces as well."""
    pieces = [f"Ġ{word}" for word in WORDS] + ["ðŁ", "ĠðŁ"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = list(dict.fromkeys((piece[:end], piece[end]) for piece in pieces for end in range(1, len(piece))))
    vocabulary = dict.fromkeys([*alphabet, *(first + second for first, second in merges)])
    tokenizer = Tokenizer(models.BPE({piece: place for place, piece in enumerate(vocabulary)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def word_piece() -> PreTrainedTokenizerBase:
    """As BERT's: "##" goes on with a word; blanks before stops are taken out again."""
    letters = [*"abcdefghijklmnopqrstuvwxyz", ".", ",", "'", "…", "🍕"]
    pieces = ["[UNK]", *WORDS, *letters, *(f"##{letter}" for letter in letters), "##og", "##at"]
    vocabulary = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


def sentence_piece() -> PreTrainedTokenizerBase:
    """Pieces with "▁" for a blank by the unigram model, without bytes."""
    pieces = [("<unk>", 0.0), *((f"▁{word}", -1.0) for word in WORDS), ("▁", -2.0)]
    pieces += [(letter, -5.0) for letter in [*"abcdefghijklmnopqrstuvwxyz.,'🍕"]]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


KINDS = [byte_fallback, byte_level, word_piece, sentence_piece]


def test_the_word_behind_an_emoji_by_hand():
    tokenizer = byte_fallback()
    pieces = ["▁", "<0xF0>", "<0x9F>", "<0x8D>", "<0x95>", "▁dog"]
    ids = tokenizer.convert_tokens_to_ids(pieces)
    assert token_ends(tokenizer, ids, skip_special_tokens=True) == ("🍕 dog", [0, 0, 0, 0, 1, 5])
    mentions = score_caption("🍕 dog", set())["mentions"]
    assert [target.index for target in find_targets(tokenizer, ids, "🍕 dog", mentions)] == [5]


def test_a_run_of_bytes_that_is_whole_and_then_not():
    """After the heart the first byte of its variation selector makes all four bytes unreadable for a moment."""
    tokenizer = byte_fallback()
    pieces = ["<0xE2>", "<0x9D>", "<0xA4>", "<0xEF>", "<0xB8>", "<0x8F>", "▁dog"]
    ids = tokenizer.convert_tokens_to_ids(pieces)
    assert token_ends(tokenizer, ids, skip_special_tokens=True) == ("❤️ dog", [0, 0, 1, 1, 1, 2, 6])


@pytest.mark.parametrize("make", KINDS)
def test_targets_are_the_tokens_that_spell_the_words(make):
    tokenizer, rng, n_targets = make(), Random(5), 0
    for between in BETWEEN:
        n_targets += check_targets(
            tokenizer, tokenizer(f"{between} dog and {between}a pizza", add_special_tokens=False).input_ids
        )
    for _ in range(60):
        parts = [rng.choice(BETWEEN + [f" {word}" for word in WORDS]) for _ in range(rng.randint(1, 12))]
        n_targets += check_targets(tokenizer, tokenizer("".join(parts), add_special_tokens=False).input_ids)
    assert n_targets > 60


@pytest.mark.parametrize("make", KINDS)
def test_targets_among_any_tokens(make):
    """A model may say bytes that make no character."""
    tokenizer, rng, n_targets = make(), Random(7), 0
    words = tokenizer("dog cat pizza", add_special_tokens=False).input_ids
    ids = [number for number in range(len(tokenizer)) if number not in tokenizer.all_special_ids]
    for _ in range(100):
        drawn = [token for _ in range(6) for token in [*rng.choices(ids, k=rng.randint(0, 5)), rng.choice(words)]]
        n_targets += check_targets(tokenizer, drawn)
    assert n_targets > 60


@pytest.mark.parametrize("make", KINDS)
def test_texts_of_tokens_make_the_text(make):
    tokenizer, rng = make(), Random(9)
    for _ in range(100):
        ids = rng.choices(range(len(tokenizer)), k=12)
        assert "".join(token_texts(tokenizer, ids)) == tokenizer.decode(ids)


def test_what_halc_takes_a_token_to_add():
    """The last byte of an emoji adds the emoji, not the whole text again."""
    tokenizer = byte_fallback()
    ids = tokenizer("a dog. 🍕 cat", add_special_tokens=False).input_ids
    added = [added_text(tokenizer, ids[:place], token) for place, token in enumerate(ids)]
    assert added[-2:] == ["🍕", " cat"]
