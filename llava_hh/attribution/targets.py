"""Which generated tokens attribution looks at: the first token of every object word that a caption names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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
        mentions: the scored mentions, as in a result file: `word`, `node`, `start` (character of `caption`),
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
    targets = []
    for mention in mentions:
        index = next(index for index, end in enumerate(ends) if end > start + mention["start"])
        targets.append(_target(index, token_ids, mention))
    return targets


def token_ends(
    tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], skip_special_tokens: bool
) -> tuple[str, list[int]]:
    """The text of `token_ids`, and how many of its characters are written once each token is there.

    Some tokens hold only a part of a character: one byte of an emoji, for example. Until the character is complete,
    decoding writes other characters in its place, and more or fewer of them. So the ends are where the decoded prefixes
    agree with the whole text, not how long they are. The last token of a character writes it.
    """
    text = tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)
    ends, end = [], 0
    for n in range(1, len(token_ids) + 1):
        prefix = tokenizer.decode(token_ids[:n], skip_special_tokens=skip_special_tokens)
        end = max(end, len(commonprefix([prefix, text])))
        ends.append(end)
    return text, ends


def find_released_targets(
    tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], mentions: Sequence[Mapping[str, Any]]
) -> list[Target]:
    """Every token whose text is the first sub-token of a mentioned word, wherever it stands.

    A piece that begins a hallucinated and a true word counts as hallucinated. So "hand" anywhere is a target once a
    handbag is named; `find_targets` goes by the place of the mention instead.

    Source: the released code (`--released`).
    """
    pieces: dict[str, Mapping[str, Any]] = {}
    for mention in sorted(mentions, key=lambda each: not each["hallucinated"]):
        pieces.setdefault(_first_piece(tokenizer, mention["word"]), mention)
    decoded = [tokenizer.decode([token]).strip() for token in token_ids]
    return [_target(index, token_ids, pieces[text]) for index, text in enumerate(decoded) if text in pieces]


def _target(index: int, token_ids: Sequence[int], mention: Mapping[str, Any]) -> Target:
    return Target(index, token_ids[index], mention["word"], mention["node"], mention["hallucinated"])


def _first_piece(tokenizer: PreTrainedTokenizerBase, word: str) -> str:
    """Text of the first sub-token of `word` inside a sentence."""
    pieces = tokenizer.tokenize(word)
    if not pieces[0].startswith("▁"):  # unlike Llama's, byte-level tokenizers put no blank before a text themselves
        pieces = tokenizer.tokenize(f" {word}")
    return tokenizer.convert_tokens_to_string(pieces[:1]).strip()
