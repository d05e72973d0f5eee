"""What each token of a tokenizer spells in bytes, by its piece alone: the slow way to where words stand."""

import json
from collections.abc import Sequence
from itertools import groupby

from transformers import PreTrainedTokenizerFast

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
    kind = json.loads(tokenizer.backend_tokenizer.to_str())["decoder"]["type"]
    added = tokenizer.added_tokens_decoder
    texts = []
    for token, piece in zip(token_ids, tokenizer.convert_ids_to_tokens(token_ids), strict=True):
        if token in added:
            texts.append(b"" if added[token].special else piece.encode())
        elif kind == "ByteLevel":
            texts.append(bytes(BYTES[character] for character in piece))
        elif kind == "WordPiece":
            texts.append(piece[2:].encode() if piece.startswith("##") else f" {piece}".encode())
        else:
            texts.append(piece.replace("▁", " ").encode())
    return texts if kind in ("ByteLevel", "WordPiece") else with_bytes(texts)


def with_bytes(texts: list[bytes]) -> list[bytes]:
    """Byte fallback: "<0x41>" is a byte; of neighbouring bytes that are not UTF-8 all together nothing can be read."""
    whole = []
    for is_byte, run in groupby(texts, lambda text: len(text) == 6 and text.startswith(b"<0x")):
        own = [bytes([int(text[3:5], 16)]) if is_byte else text for text in run]
        readable = not is_byte or "\ufffd" not in b"".join(own).decode(errors="replace")
        whole += own if readable else [NOTHING] * len(own)
    return whole


def token_of_letter(tokenizer: PreTrainedTokenizerFast, token_ids: Sequence[int], number: int) -> int:
    """The index of the token that spells the ASCII letter of this number, from 0; decoding leaves every letter as it is."""
    letters = [sum(chr(byte).isalpha() and byte < 128 for byte in text) for text in spelled(tokenizer, token_ids)]
    index = 0
    while number >= letters[index]:
        number -= letters[index]
        index += 1
    return index


def letters_before(text: str, place: int) -> int:
    return sum(character.isalpha() and character.isascii() for character in text[:place])
