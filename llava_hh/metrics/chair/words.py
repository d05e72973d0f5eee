"""Words of a caption with their positions: what nltk.word_tokenize gives on lower case, without nltk's data files.

nltk.word_tokenize needs the downloaded punkt model for one decision: which "." ends a sentence (only that one is cut
off its word). On lower-case text nearly all of the model is silent but its abbreviations, which stand here. nltk 3.10
defines what CHAIR counts: earlier versions take the quotes of 'dog' otherwise.
"""

import re
import sys
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from nltk.tokenize.destructive import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktSentenceTokenizer

# Words whose "." never ends a sentence. Source: the abbreviations of punkt's English model (Kiss and Strunk, 2006).
_ABBREVIATIONS = (
    "a.a a.c a.d a.g a.h a.m a.m.e a.s a.t adm ala ariz aug ave b.f b.v bros c c.i.t c.o.m.b c.v calif chg cie co col "
    "colo conn corp cos ct d d.c d.h d.w dec dr e e.f e.h e.l e.m f f.g f.j feb fla fri ft g g.d g.f g.k ga gen h h.c "
    "h.f h.m i.m.s ill inc j.b j.c j.j j.k j.p j.r jan jr k kan ky l l.a l.f l.p lt ltd m m.b.a m.d.c m.j maj messrs "
    "mg mich minn mr mrs ms n n.c n.d n.h n.j n.m n.v n.y nev nov oct ok okla ore p p.a.m p.m pa ph.d prof r r.a r.h "
    "r.i r.j r.k r.t rep reps s s.a s.a.y s.c s.g s.p.a s.s sen sep sept sr st sw t t.j tenn tues u.k u.n u.s u.s.a "
    "u.s.s.r v va vs vt w w.c w.r w.va w.w wash wed wis yr"
)
ABBREVIATIONS = frozenset(_ABBREVIATIONS.split())
_FINISHED = re.compile(r"[.?!][\"')\]}”’]*\Z")
_BLANKS = re.compile(r"\s*")
# Text in which each of these marks ends a sentence, unless a "." follows one of _NO_END or a word with a hyphen
_ODD = re.compile(r"[^a-z,.?!\s-]|[.?!](?!\s+[a-z]|\Z)")
_END = re.compile(r"([a-z-]*)([.?!])\s*")
_NO_END = ABBREVIATIONS | frozenset("abcdefghijklmnopqrstuvwxyz")
# Sentences that the tokenizer does nothing with but cut off commas and the mark at the end, at a tenth of its time
_PLAIN = re.compile(r"(?!.*--)[a-z-]+(?:,? [a-z-]+)*[.?!]?")
_PLAIN_TOKEN = re.compile(r"[a-z-]+|[,.?!]")
_CONTRACTIONS = re.compile(r"\b(cannot|gimme|gonna|gotta|lemme|wanna)\b")


class Token(NamedTuple):
    """A word or a punctuation mark in lower case, at characters [start, end) of the caption."""

    word: str
    start: int
    end: int


@cache
def _punkt() -> "PunktSentenceTokenizer":
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    known = PunktParameters()
    known.abbrev_types = set(ABBREVIATIONS)
    return PunktSentenceTokenizer(known)


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Return the sentences of lower-case `text` as [start, end) spans of characters; closing quotes stay inside.

    Differs: punkt's model also knows how often words begin a sentence, and pairs of words that a "." may part. After an
        abbreviation, a number or a single letter, a lower-case word is taken here for the same sentence, always.
    """
    ends = [] if _ODD.search(text) else list(_END.finditer(text))
    if ends and not any(end[2] == "." and (not end[1].isalpha() or end[1] in _NO_END) for end in ends):
        starts = [0, *(end.end() for end in ends)]
        spans = list(zip(starts, (end.end(2) for end in ends), strict=False))
        return spans if starts[-1] == len(text) else [*spans, (starts[-1], len(text))]
    return list(_punkt().span_tokenize(text)) or [(0, len(text))]


def _lower(text: str) -> tuple[str, list[int] | None]:
    """Return the lower case of `text` and, if that has another length, the index in `text` of each character."""
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered, None
    pieces = [(char, index) for index, letter in enumerate(text) for char in letter.lower()]
    return "".join(char for char, _ in pieces), [index for _, index in pieces]


def drop_incomplete_sentence(caption: str) -> str:
    """Return `caption` up to the end of its last finished sentence; whole, without outer blanks behind, if it has none.

    A text that ends in a ".", of an abbreviation or an ellipsis too, counts as finished.

    Source: OPERA's evaluation of captions that were cut off at a number of tokens.
    """
    whole = caption.rstrip()
    if _FINISHED.search(whole):
        return whole
    text, indices = _lower(whole)
    *finished, _ = split_sentences(text)
    if not finished:
        return whole
    end = finished[-1][1]
    return whole[: end if indices is None else indices[end - 1] + 1]


@cache
def _tokenizer() -> "NLTKWordTokenizer":
    from nltk.tokenize.destructive import NLTKWordTokenizer  # half a second, for captions alone

    return NLTKWordTokenizer()


def _split_sentence(sentence: str) -> list[str]:
    """What nltk's tokenizer makes of a lower-case sentence."""
    if _PLAIN.fullmatch(sentence) and not _CONTRACTIONS.search(sentence):
        return _PLAIN_TOKEN.findall(sentence)
    return _tokenizer().tokenize(sentence)


def tokenize(caption: str) -> list[Token]:
    """Return the words and punctuation marks of `caption` in order, lower case, each with its position in `caption`.

    The tokenizer writes a double quote as two back quotes or two apostrophes, so a token's text can differ from the
    caption's there; everywhere else caption[start:end].lower() is the word.
    """
    text, indices = _lower(caption)
    tokens = []
    for start, end in split_sentences(text):
        position = start
        for word in _split_sentence(text[start:end]):
            position = _BLANKS.match(text, position).end()
            if text.startswith(word, position):
                length = len(word)
            elif word in ("``", "''"):
                length = 1 if text[position] == '"' else 2
            else:
                raise ValueError(f"cannot find the token {word!r} in {text[start:end]!r}")
            tokens.append(Token(sys.intern(word), position, position + length))  # one string for all captions
            position += length
    if indices is None:
        return tokens
    return [Token(word, indices[start], indices[end - 1] + 1) for word, start, end in tokens]
