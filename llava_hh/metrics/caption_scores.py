"""All metrics of scored captions; BLEU and CIDEr by pycocoevalcap's scorers and without Java."""

from collections.abc import Mapping, Sequence
from typing import Any

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider

from llava_hh.metrics.chair.chair import corpus_metrics
from llava_hh.metrics.chair.words import tokenize
from llava_hh.metrics.statistics import summarise

# What pycocoevalcap's tokenizer takes for punctuation and leaves out. It means to leave out brackets as well, but looks
# for their names in capitals after it has made everything lower case.
PUNCTUATION = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "–", "—", "...", ";"))
# Typographic marks, which nltk leaves inside words ("it’s") and Stanford's tokenizer reads as the plain ones.
PLAIN_MARKS = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "…": "..."})
BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}


def overall_metrics(sentences: Sequence[Mapping], variant: str, references: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The `overall_metrics` of a result file: `corpus_metrics` with 95% intervals over images, and BLEU and CIDEr.

    Args:
        sentences: entries that `llava_hh.metrics.chair.chair.score_caption` made, with their `image_id`.
        references: the reference captions of each; where one has none, there is no BLEU and no CIDEr.
    Raises:
        ValueError: no captions.
    """
    overall = {**corpus_metrics(sentences, variant), "interval": summarise(sentences)["interval"]}
    if all(references):
        overall |= score_against_references([entry["caption"] for entry in sentences], references)
    return overall


def words_of(caption: str) -> str:
    """The words of a caption in lower case with a blank between them, no punctuation.

    Differs: pycocoevalcap runs Stanford's PTBTokenizer, which needs Java; ours is nltk's, of the same rules.
    """
    words = (token.word for token in tokenize(caption.translate(PLAIN_MARKS)))
    return " ".join(BRACKETS.get(word, word) for word in words if word not in PUNCTUATION)


def score_against_references(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Corpus BLEU-1 to BLEU-4 and CIDEr.

    Args:
        references: the reference captions of each caption, at least one.
    Returns: {"Bleu": [four fractions], "CIDEr": mean over captions, 0 to 10}; BLEU by the closest reference length,
        CIDEr by the document frequencies of these references, both as COCO's evaluation has them. Empty where no
        reference has a word.
    Raises:
        ValueError: no caption, or a caption without a reference.
    Source: the paper's repository scores by the same package.
    """
    if not captions:
        raise ValueError("no captions to score by BLEU and CIDEr")
    if not all(references):
        raise ValueError(f"caption {[*map(bool, references)].index(False)} has no reference caption")
    truth = {number: list(map(words_of, texts)) for number, texts in enumerate(references)}
    if not any(map(any, truth.values())):
        return {}
    scored = {number: [words_of(text)] for number, text in enumerate(captions)}
    bleu, _ = Bleu(4).compute_score(truth, scored, verbose=0)
    cider, _ = Cider().compute_score(truth, scored)
    return {"Bleu": [float(score) for score in bleu], "CIDEr": float(cider)}
