"""Which generated tokens attribution looks at: the first token of every object word that a caption names."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from os.path import commonprefix
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Target:
    """`index` counts in the caption's token_ids; `token_id` is the first token of `word`, a mention of `node`."""

    index: int
    token_id: int
    word: str
    node: str
    hallucinated: bool

    def row(self) -> dict:
        return asdict(self)


def find_targets(
    tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], caption: str, mentions: Sequence[Mapping[str, Any]]
) -> list[Target]:
    """The first token of every mentioned object, in order.

    A mention's token is the one that writes the mention's first character (`token_ends`).

    Args:
        caption: the text that was scored: what `token_ids` decode to, or a part of it.
        mentions: the scored mentions of a result file: `word`, `node`, `start` (character of `caption`),
            `hallucinated`.
    Raises:
        ValueError: `token_ids` do not spell `caption`.
    Source: the paper's object tokens (first sub-token of a mentioned object).
    Differs: see `find_released_targets`.
    """
    text, ends = token_ends(tokenizer, token_ids, skip_special_tokens=True)
    start = text.find(caption)
    if start < 0:
        raise ValueError(f"token_ids spell {text.strip()[:60]!r}, not the caption {caption[:60]!r}: of another model?")
    indices = [bisect(ends, start + mention["start"]) for mention in mentions]
    return [_target(index, token_ids, mention) for index, mention in zip(indices, mentions, strict=True)]


def tokens_of_words(
    tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], caption: str, mentions: Sequence[Mapping[str, Any]]
) -> list[range]:
    """The tokens that write each mention, as indices into `token_ids`.

    The first one is that of `find_targets`, or where several tokens write a mention's first character, such as the
    bytes of an accented letter, the first of these.

    Args:
        mentions: with `start` and `end`, characters of `caption`.
    """
    text, ends = token_ends(tokenizer, token_ids, skip_special_tokens=True)
    start, spans = text.find(caption), []
    for mention in mentions:
        first, last = (bisect(ends, start + place) for place in (mention["start"], mention["end"] - 1))
        while first and ends[first - 1] == start + mention["start"]:
            if "\ufffd" not in tokenizer.decode(token_ids[first - 1]):  # no part of a character
                break
            first -= 1
        spans.append(range(first, last + 1))
    return spans


def token_ends(
    tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], skip_special_tokens: bool
) -> tuple[str, list[int]]:
    """The text of `token_ids`, and how many of its characters are complete after each token.

    Some tokens hold only a part of a character: one byte of an emoji, for example. Until the character is complete,
    decoding writes other characters instead, and more or fewer of them. So the ends are where the decoded prefixes
    agree with the whole text, not how long they are. The last token of a character completes it.
    """
    text = tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)
    prefixes = (token_ids[:n] for n in range(1, len(token_ids) + 1))
    decoded = (tokenizer.decode(prefix, skip_special_tokens=skip_special_tokens) for prefix in prefixes)
    return text, list(accumulate((len(commonprefix([prefix, text])) for prefix in decoded), max))


def find_released_targets(
    tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], mentions: Sequence[Mapping[str, Any]]
) -> list[Target]:
    """Every token whose text is the first sub-token of a mentioned word, anywhere in the caption.

    A piece that begins a hallucinated and a true word counts as hallucinated. So "hand" anywhere is a target once a
    handbag is named; `find_targets` takes the tokens of the mention itself instead.

    Source: the released code (`--released`).
    """
    pieces: dict[str, Mapping[str, Any]] = {}
    for mention in sorted(mentions, key=lambda mention: not mention["hallucinated"]):
        pieces.setdefault(_first_piece(tokenizer, mention["word"]), mention)
    decoded = [tokenizer.decode([token]).strip() for token in token_ids]
    return [_target(index, token_ids, pieces[text]) for index, text in enumerate(decoded) if text in pieces]


def _target(index: int, token_ids: Sequence[int], mention: Mapping[str, Any]) -> Target:
    return Target(index, token_ids[index], mention["word"], mention["node"], mention["hallucinated"])


def _first_piece(tokenizer: PreTrainedTokenizerBase, word: str) -> str:
    """The text of the first sub-token of `word` inside a sentence."""
    pieces = tokenizer.tokenize(word)
    if not pieces[0].startswith("▁"):  # unlike Llama's, byte-level tokenizers put no blank before a text themselves
        pieces = tokenizer.tokenize(f" {word}")
    return tokenizer.convert_tokens_to_string(pieces[:1]).strip()
