"""Target tokens of attribution, worked out by hand."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llava_hh.attribution.targets import find_targets

# byte-level pieces: "Ġ" is a leading blank; "knife" and "traffic light" take two tokens each, "handbag" two
PIECES = ["A", "Ġfork", "Ġand", "Ġa", "Ġkn", "ife", ".", "Ġtra", "ffic", "Ġlight", "Ġhand", "bag", "Ġthe", "<end>"]


def tokenizer() -> PreTrainedTokenizerFast:
    plain = Tokenizer(models.WordLevel({piece: place for place, piece in enumerate(PIECES)}, unk_token="A"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    plain.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<end>")


def ids(text: str) -> list[int]:
    return [PIECES.index(piece) for piece in text.split()]


def test_a_target_is_the_first_token_of_the_mention():
    tokens = ids("A Ġfork Ġand Ġa Ġkn ife .")
    found = find_targets(tokenizer(), tokens, {"fork"})
    assert [(t.index, t.word, t.hallucinated) for t in found] == [(1, "fork", False), (4, "knife", True)]
    assert [t.token_id for t in found] == [tokens[1], tokens[4]]


def test_two_words_and_two_tokens():
    found = find_targets(tokenizer(), ids("A Ġtra ffic Ġlight Ġand Ġa Ġhand bag ."), set())
    assert [(t.index, t.node) for t in found] == [(1, "traffic light"), (6, "handbag")]


def test_a_piece_of_another_word_is_no_target():
    """The released rule would take "Ġhand" wherever it stands once a handbag is named."""
    found = find_targets(tokenizer(), ids("A Ġhand Ġand Ġa Ġhand bag"), {"handbag"})
    assert [(t.index, t.word, t.hallucinated) for t in found] == [(4, "handbag", False)]


def test_every_mention_counts():
    found = find_targets(tokenizer(), ids("A Ġfork Ġand Ġthe Ġfork"), {"fork"})
    assert [t.index for t in found] == [1, 4]
