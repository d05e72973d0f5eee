"""The variants of CHAIR: how each makes the words of a caption singular, and the COCO category of each word.

| variant | used by | words |
|---|---|---|
| `hh` | the paper | stay as written, made singular when they are looked up |
| `clean` | ours | as `hh`, without its accidents: "bus", "ties", "canoes", "iPhone" and "motor bike" count |
| `original` | LisaAnne/Hallucination | all made singular first |
| `lemma` | OPERA, PAI, SPIN, ... | all made lemmas first, by part of speech |
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from importlib.resources import files

from llava_hh.metrics.chair.singular import singularize
from llava_hh.metrics.chair.words import Token

VARIANTS = ("hh", "clean", "original", "lemma")
OWN = "own-"  # begins the name of rules with a vocabulary of one's own, whose sha256 it goes on with
LEMMA_DATA = {"averaged_perceptron_tagger_eng": "taggers", "wordnet": "corpora"}

_PAIRS = (
    "motor bike; motor cycle; air plane; traffic light; street light; traffic signal; stop light; fire hydrant; "
    "stop sign; parking meter; suit case; sports ball; baseball bat; baseball glove; tennis racket; wine glass; "
    "hot dog; cell phone; mobile phone; teddy bear; hair drier; potted plant; bow tie; laptop computer; "
    "stove top oven; home plate; train track"
)
_ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub")

# Two words in the singular -> the one item that they become. "home plate" and "train track" are no objects and are
# here to swallow "plate" and "train"; "stove top oven" has three words, so it never fires.
DOUBLE_WORDS: Mapping[str, str] = {
    **{pair: pair for pair in _PAIRS.split("; ")},
    **{f"{age} {animal}": animal for age in ("baby", "adult") for animal in _ANIMALS},
    **{"passenger jet": "jet", "passenger train": "train", "bow tie": "tie", "toilet seat": "toilet"},
    "wine glas": "wine glass",
}
# First letters of the tagger's tags -> WordNet's parts of speech; any other tag is taken for a noun.
_PARTS_OF_SPEECH = {"J": "a", "V": "v", "R": "r"}


@dataclass(frozen=True)
class Variant:
    """How one variant reads a caption.

    normalise: the caption's words as double words are looked for among them.
    singular: of one item, or of two words with a blank between them, as it is looked up.
    categories: from an item that was looked up to its COCO category.
    records_nodes: whether the words of its result files are categories; else they are as the caption has them.
    double_words: from two words in the singular to the one item that they become.
    """

    normalise: Callable[[Sequence[Token]], list[Token]]
    singular: Callable[[str], str]
    categories: Mapping[str, str]
    records_nodes: bool
    double_words: Mapping[str, str] = field(default_factory=lambda: DOUBLE_WORDS)

    @cached_property
    def first_words(self) -> frozenset[str]:
        """First words of double words; the singular of two words keeps the first, so no other pair need be tried."""
        return frozenset(pair.split(" ")[0] for pair in self.double_words)


@lru_cache(maxsize=1)
def load_synonyms() -> dict[str, tuple[str, ...]]:
    """Return the words of each of the 80 COCO categories as their source has them, category first."""
    table = json.loads(files("llava_hh.metrics.chair").joinpath("coco_synonyms.json").read_text(encoding="utf-8"))
    return {category: tuple(words) for category, words in table["categories"].items()}


@lru_cache(maxsize=1)
def category_of_word() -> dict[str, str]:
    """Return the COCO category of each of those words, in lower case and without outer blanks: "purse" -> "handbag"."""
    return {word.strip().lower(): category for category, words in load_synonyms().items() for word in words}


@lru_cache
def load_variant(name: str) -> Variant:
    """Return a variant by its name.

    Raises:
        ValueError: no such variant, or the data that `lemma` needs is not installed.
    Differs: pattern.en, which `original` was written with, makes "glass" a "glas"; here "ss" stays. No object depends
        on it: "wine glas" and "wine glass" are both in the table of double words.
    """
    if name not in VARIANTS:
        raise ValueError(f"CHAIR variant {name!r} is not known; expected one of: {', '.join(VARIANTS)}")
    category_of = {word: category for category, words in load_synonyms().items() for word in words}
    if name == "clean":
        category_of = category_of_word()
    if name in ("hh", "clean"):
        singular = singularize if name == "hh" else partial(_singular_by, _singular_of(category_of))
        return Variant(list, singular, category_of, records_nodes=False)
    if name == "lemma":
        _require_lemma_data()
    return Variant(_all_lemmas if name == "lemma" else all_singular, str, category_of, records_nodes=True)


def own_variant(vocabulary: Mapping[str, Sequence[str]]) -> Variant:
    """The rules of `clean` for objects of one's own: categories, each with the words that stand for it beside its name.

    Raises:
        ValueError: no category, a word that stands for two of them, or one of more than two words.
    """
    category_of: dict[str, str] = {}
    for category, words in vocabulary.items():
        for word in (" ".join(each.lower().split()) for each in (category, *words)):
            if category_of.setdefault(word, category) != category:
                raise ValueError(
                    f"{word!r} stands for {category_of[word]!r} and for {category!r}; expected one of them"
                )
            if not 1 <= len(word.split()) <= 2:
                raise ValueError(f"{word!r} of {category!r}: expected one word or two")
    if not category_of:
        raise ValueError("no category there; expected at least one")
    pairs = {word: word for word in category_of if " " in word}
    singular = partial(_singular_by, _singular_of(category_of))
    return Variant(list, singular, category_of, records_nodes=False, double_words=pairs)


def _singular_of(words: Iterable[str]) -> dict[str, str]:
    """The singular of words and of their regular plurals, which the rules get partly wrong; of two words the last."""
    known = {word.rsplit(" ", 1)[-1] for word in words}
    return {plural: word for word in known for plural in plurals(word)} | {word: word for word in known}


def plurals(word: str) -> list[str]:
    """The regular plurals of a noun; of one that ends in o or f both that are in use."""
    if re.search("[^aeiou]y$", word):
        return [f"{word[:-1]}ies"]
    if re.search("(s|x|z|ch|sh)$", word):
        return [f"{word}es"]
    if re.search("[^f]f$", word):
        return [f"{word}s", f"{word[:-1]}ves"]
    return [f"{word}s", f"{word}es"] if word.endswith("o") else [f"{word}s"]


def _singular_by(known: Mapping[str, str], words: str) -> str:
    *before, last = words.split(" ")
    return " ".join([*before, known.get(last) or singularize(last)])


def all_singular(tokens: Sequence[Token]) -> list[Token]:
    """The tokens with each word in the singular."""
    return [token._replace(word=singularize(token.word)) for token in tokens]


def _all_lemmas(tokens: Sequence[Token]) -> list[Token]:
    import nltk
    from nltk.stem import WordNetLemmatizer

    lemmatizer = WordNetLemmatizer()
    tagged = nltk.pos_tag([token.word for token in tokens])
    lemmas = (lemmatizer.lemmatize(word, _PARTS_OF_SPEECH.get(tag[0], "n")) for word, tag in tagged)
    return [token._replace(word=lemma) for token, lemma in zip(tokens, lemmas, strict=True)]


def _require_lemma_data() -> None:
    import nltk

    missing = []
    for name, kind in LEMMA_DATA.items():
        try:
            nltk.data.find(f"{kind}/{name}/")  # with the last slash, also in a zip file
        except LookupError:
            missing.append(name)
    if missing:
        advice = f"python -m nltk.downloader {' '.join(missing)} (or choose another --variant)"
        raise ValueError(f"CHAIR variant 'lemma' needs nltk's data: {advice}")
