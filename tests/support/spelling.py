"""What each token of a tokenizer spells in bytes, by its piece alone: the slow way to where words stand."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby

from transformers import PreTrainedTokenizerFast

from llava_hh.attribution.targets import find_targets
from llava_hh.metrics.chair.chair import score_caption

PRINTABLE = [
    *range(33, 127),
    *range(161, 173),
    *range(174, 256),
]  # bytes that stand for themselves in byte-level pieces
HIDDEN = [byte for byte in range(256) if byte not in PRINTABLE]
BYTES = {chr(byte): byte for byte in PRINTABLE} | {chr(256 + place): byte for place, byte in enumerate(HIDDEN)}
NOTHING = b"\xff"


def spelled(tokenizer: PreTrainedTokenizerFast, token_ids: Sequence[int]) -> list[bytes]:
    """The bytes of each token; special tokens spell nothing. Blanks at the front and before stops may be too many."""
    kind = type(tokenizer.backend_tokenizer.decoder).__name__
    added = added_texts(tokenizer)
    texts = []
    for token, piece in zip(token_ids, tokenizer.convert_ids_to_tokens(token_ids), strict=True):
        if token in added:
            texts.append(added[token])
        elif kind == "ByteLevel":
            texts.append(bytes(BYTES[character] for character in piece))
        elif kind == "WordPiece":
            texts.append(piece[2:].encode() if piece.startswith("##") else f" {piece}".encode())
        else:
            texts.append(piece.replace("▁", " ").encode())
    return texts if kind in ("ByteLevel", "WordPiece") else with_bytes(texts)


@lru_cache
def added_texts(tokenizer: PreTrainedTokenizerFast) -> dict[int, bytes]:
    return {
        token: b"" if own.special else own.content.encode() for token, own in tokenizer.added_tokens_decoder.items()
    }


def with_bytes(texts: list[bytes]) -> list[bytes]:
    """Byte fallback: "<0x41>" is a byte; of neighbouring bytes that are not UTF-8 all together nothing can be read."""
    whole = []
    for is_byte, run in groupby(texts, lambda text: len(text) == 6 and text.startswith(b"<0x")):
        own = [bytes([int(text[3:5], 16)]) if is_byte else text for text in run]
        readable = not is_byte or "\ufffd" not in b"".join(own).decode(errors="replace")
        whole += own if readable else [NOTHING] * len(own)
    return whole


def token_of_letter(tokenizer: PreTrainedTokenizerFast, token_ids: Sequence[int], number: int) -> int:
    """The index of the token that spells the ASCII letter of this number, from 0; decoding changes no letter."""
    letters = [sum(chr(byte).isalpha() and byte < 128 for byte in text) for text in spelled(tokenizer, token_ids)]
    index = 0
    while number >= letters[index]:
        number -= letters[index]
        index += 1
    return index


def letters_before(text: str, place: int) -> int:
    return sum(character.isalpha() and character.isascii() for character in text[:place])


def check_targets(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> int:
    """Compare every target with the token that spells the mention's first letter; how many there were."""
    text = tokenizer.decode(ids, skip_special_tokens=True)
    scored = score_caption(text.strip(), set())
    targets = find_targets(tokenizer, ids, scored["caption"], scored["mentions"])
    start = text.find(scored["caption"])
    expected = [
        token_of_letter(tokenizer, ids, letters_before(text, start + mention["start"]))
        for mention in scored["mentions"]
    ]
    assert [target.index for target in targets] == expected, (text, tokenizer.convert_ids_to_tokens(ids))
    return len(targets)
