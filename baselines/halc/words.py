"""The words of a caption that HALC checks."""

from os.path import commonprefix
from random import Random

from textblob.en import tag
from transformers import PreTrainedTokenizerBase

from llava_hh.baselines.halc.settings import HalcSettings
from llava_hh.metrics.chair.chair import find_objects

EDGES = ".,'][)"


def added_text(tokenizer: PreTrainedTokenizerBase, ids: list[int], token: int) -> str:
    """What `token` adds to the text of `ids`, its leading blank included."""
    before = tokenizer.decode(ids, skip_special_tokens=True)
    after = tokenizer.decode([*ids, token], skip_special_tokens=True)
    return after[len(commonprefix([before, after])) :]  # the last byte of an emoji changes what was written for others


def begins_word(text: str, variant: str) -> bool:
    """Whether a token of this text ends the word before it; a comma does so only in the clean variant."""
    if text[:1].isspace() or "." in text:
        return True
    return variant == "clean" and not any(character.isalnum() for character in text)


def checked_word(caption: str, word: str, settings: HalcSettings, rng: Random) -> str | None:
    """The word as the detector is asked for it; None if it is not to be checked: only nouns are.

    In the clean variant, what CHAIR knows as an object is a noun whatever the tagger says ("bear", "remote").

    Args:
        caption: the text up to and with the word, by which its part of speech is told.
    """
    released = settings.variant == "released"
    name = word.strip().strip(EDGES).strip()
    if released and name.endswith("s"):
        name = name[:-1]
    by_chance = rng.random() < settings.skip_rate  # drawn for every word, so that lists don't move the draws
    if name in settings.always_words:
        return name
    if not name or name in settings.exempt_words or by_chance or (released and ("." in word or "," in word)):
        return None
    if not released and find_objects(name):
        return name
    tags = tag(name if released else caption.strip().rstrip(EDGES))
    return name if tags and tags[-1][1].startswith("NN") else None
