"""BLEU and CIDEr on captions worked out by hand."""

import math
from collections import Counter

import pytest

from llava_hh.metrics.caption_scores import score_against_references, words_of


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A dog's bowl, and two cats!", "a dog 's bowl and two cats"),
        ('He says "no" (twice).', "he says no -lrb- twice -rrb-"),
        ("A cat... - a dog; it's 3.5 miles.", "a cat a dog it 's 3.5 miles"),
        ("“A cat” that’s big… and ‘red’", "a cat that 's big and red"),
        ("", ""),
    ],
)
def test_words_without_punctuation(caption, words):
    assert words_of(caption) == words


def test_bleu_with_brevity_penalty():
    """Caption of 4 words; the closest reference has 5. Clipped: 3 of 4 words, 1 of 3 pairs of words."""
    scores = score_against_references(
        ["A dog, a cat."], [["A dog sits on it.", "There is a very big cat in the house."]]
    )
    penalty = math.exp(1 - 5 / 4)
    assert scores["Bleu"][0] == pytest.approx(3 / 4 * penalty)
    assert scores["Bleu"][1] == pytest.approx(math.sqrt(3 / 4 * 1 / 3) * penalty)


def test_cider_against_its_definition():
    captions = ["a dog runs", "a cat sits", "two birds"]
    references = [["a dog is running", "a dog runs"], ["a cat sits down"], ["two birds fly", "birds"]]

    def ngrams(text: str, n: int) -> Counter:
        words = text.split()
        return Counter(tuple(words[place : place + n]) for place in range(len(words) - n + 1))

    total = 0.0
    for caption, own in zip(captions, references, strict=True):
        for n in (1, 2, 3, 4):
            documents = Counter(gram for texts in references for gram in {g for text in texts for g in ngrams(text, n)})

            def weigh(text: str, n: int = n, documents: Counter = documents) -> dict:
                idf = {gram: math.log(len(references)) - math.log(max(1, documents[gram])) for gram in ngrams(text, n)}
                return {gram: count * idf[gram] for gram, count in ngrams(text, n).items()}

            for text in own:
                mine, theirs = weigh(caption), weigh(text)
                product = sum(min(value, theirs.get(gram, 0)) * theirs.get(gram, 0) for gram, value in mine.items())
                norms = math.sqrt(sum(v * v for v in mine.values())) * math.sqrt(sum(v * v for v in theirs.values()))
                # CIDEr-D: a penalty on the difference in length, of pairs of words as the package counts it
                length = sum(ngrams(caption, 2).values()) - sum(ngrams(text, 2).values())
                total += (product / norms if norms else 0) * math.exp(-(length**2) / (2 * 6**2)) / len(own) / 4
    assert score_against_references(captions, references)["CIDEr"] == pytest.approx(10 * total / len(captions))


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="caption 1 has no reference caption"):
        score_against_references(["a", "b"], [["a"], []])
    with pytest.raises(ValueError, match="no captions"):
        score_against_references([], [])
