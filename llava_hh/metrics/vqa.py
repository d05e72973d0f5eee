"""Short answers to questions about images, for what a method costs beside hallucination: VQA accuracy, exact match."""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files

AGREEING = 3  # as many annotators who gave the answer make it right


def normalise_answer(answer: str) -> str:
    """The answer as VQA compares it: lower case, no articles, digits for number words, apostrophes put back.

    Punctuation becomes a blank; it is left out instead where it stands at a blank anywhere in the answer, or the answer
    has a comma between digits. A period stays where a digit follows.

    Source: VQA's evaluation (GT-Vision-Lab/VQA, vqaEval.py); its tables are in vqa_answers.json.
    """
    tables = _tables()
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    has_thousands = re.search(r"\d,\d", answer) is not None
    plain = answer
    for mark in tables["punctuation"]:
        at_blank = f"{mark} " in answer or f" {mark}" in answer
        plain = plain.replace(mark, "" if at_blank or has_thousands else " ")
    plain = re.sub(r"\.(?!\d)", "", plain)
    words = (tables["numbers"].get(word, word) for word in plain.lower().split())
    return " ".join(tables["contractions"].get(word, word) for word in words if word not in tables["articles"])


def vqa_accuracy(answer: str, annotators: Sequence[str]) -> float:
    """VQA accuracy of an answer, a fraction: min(agreeing / 3, 1), averaged over leaving out one annotator each time.

    Args:
        annotators: the answer of each, ten in VQAv2. Of three or fewer, no answer can reach 1; of one, none is above 0.
    Raises:
        ValueError: no annotators.
    Source: Antol et al., VQA, 2015; its evaluation code.
    Differs: that code takes annotators' answers as they are where all agree, and else takes only their punctuation
        out, for its files hold them normalised. So that code never counts an answer that all gave with a hyphen
        ("t-shirt"); here both sides are normalised alike.
    """
    if not annotators:
        raise ValueError("no annotators' answers to compare with")
    plain = normalise_answer(answer)
    agrees = [normalise_answer(other) == plain for other in annotators]
    return sum(min((sum(agrees) - left_out) / AGREEING, 1) for left_out in agrees) / len(agrees)


def exact_match(answer: str, truth: str) -> bool:
    """Whether an answer is the one true answer, as GQA has it; case, outer blanks and a final period aside."""
    plain = [text.strip().removesuffix(".").rstrip().lower() for text in (answer, truth)]
    return plain[0] == plain[1]


@lru_cache(maxsize=1)
def _tables() -> dict:
    return json.loads(files("llava_hh.metrics").joinpath("vqa_answers.json").read_text(encoding="utf-8"))
