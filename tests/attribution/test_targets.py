"""Target tokens of attribution, worked out by hand."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llava_hh.attribution.targets import Target, find_released_targets, find_targets
from llava_hh.metrics.chair.chair import score_caption

# byte-level pieces: "Ġ" is a leading blank; "knife" and "traffic light" take two tokens each, "handbag" two
PIECES = ["A", "Ġfork", "Ġand", "Ġa", "Ġkn", "ife", ".", "Ġtra", "ffic", "Ġlight", "Ġhand", "bag", "Ġthe", "<end>"]


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE whose merges spell each piece from left to right."""
    plain = PIECES[:-1]
    merges = [(piece[:end], piece[end]) for piece in plain for end in range(1, len(piece))]
    merges = list(dict.fromkeys(merges))
    parts = sorted(
        {part for piece in plain for end in range(1, len(piece) + 1) for part in (piece[:end], piece[end - 1])}
    )
    vocabulary = {piece: place for place, piece in enumerate(dict.fromkeys(PIECES + parts))}
    fast = Tokenizer(models.BPE(vocabulary, merges))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=fast, eos_token="<end>")


def ids(text: str) -> list[int]:
    return [PIECES.index(piece) for piece in text.split()]


def targets_of(tokens: list[int], objects: set[str]) -> list[Target]:
    scored = score_caption(tokenizer().decode(tokens).strip(), objects)
    return find_targets(tokenizer(), tokens, scored["caption"], scored["mentions"])


def test_a_target_is_the_first_token_of_the_mention():
    tokens = ids("A Ġfork Ġand Ġa Ġkn ife .")
    found = targets_of(tokens, {"fork"})
    assert [(t.index, t.word, t.hallucinated) for t in found] == [(1, "fork", False), (4, "knife", True)]
    assert [t.token_id for t in found] == [tokens[1], tokens[4]]


def test_two_words_and_two_tokens():
    found = targets_of(ids("A Ġtra ffic Ġlight Ġand Ġa Ġhand bag ."), set())
    assert [(t.index, t.node) for t in found] == [(1, "traffic light"), (6, "handbag")]


def test_a_piece_of_another_word_is_no_target():
    """The released rule would take "Ġhand" wherever it stands once a handbag is named."""
    found = targets_of(ids("A Ġhand Ġand Ġa Ġhand bag"), {"handbag"})
    assert [(t.index, t.word, t.hallucinated) for t in found] == [(4, "handbag", False)]


def test_every_mention_counts():
    found = targets_of(ids("A Ġfork Ġand Ġthe Ġfork"), {"fork"})
    assert [t.index for t in found] == [1, 4]


def test_the_first_generated_token_can_be_a_target():
    found = targets_of(ids("Ġfork Ġand Ġa Ġkn ife"), set())
    assert [(t.index, t.word) for t in found] == [(0, "fork"), (3, "knife")]


def test_only_the_scored_part_of_a_truncated_caption_counts():
    tokens = ids("A Ġfork . A Ġkn ife")
    scored = score_caption("A fork.", set())
    assert [t.word for t in find_targets(tokenizer(), tokens, scored["caption"], scored["mentions"])] == ["fork"]


def test_token_ids_of_another_caption_are_refused():
    with pytest.raises(ValueError, match="token_ids spell 'A fork', not the caption 'A knife'"):
        find_targets(tokenizer(), ids("A Ġfork"), "A knife", [])


def test_released_targets_go_by_text_alone():
    """Every "hand" is one, in a handbag or not; a piece of a hallucinated and a true word counts as hallucinated."""
    mentions = [
        {"word": "handbag", "node": "handbag", "hallucinated": False},
        {"word": "fork", "node": "fork", "hallucinated": True},
    ]
    found = find_released_targets(tokenizer(), ids("A Ġhand Ġand Ġa Ġfork Ġhand bag"), mentions)
    assert [(t.index, t.word, t.hallucinated) for t in found] == [
        (1, "handbag", False),
        (4, "fork", True),
        (5, "handbag", False),
    ]
    both = [{**mentions[0]}, {**mentions[0], "word": "hand", "hallucinated": True}]
    assert [t.hallucinated for t in find_released_targets(tokenizer(), ids("A Ġhand bag"), both)] == [True]
