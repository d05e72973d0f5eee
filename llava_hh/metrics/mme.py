"""MME's hallucination subset: accuracy, accuracy+ and score of existence, count, position and color."""

from collections.abc import Mapping, Sequence

from llava_hh.data.mme import CATEGORIES, Question

LEVELS = {"object_level": ("existence", "count"), "attribute_level": ("position", "color"), "total": CATEGORIES}


def parse_answer(text: str) -> str:
    """Which of "yes" and "no" the first four characters hold, "yes" before "no"; else "other".

    So "Not" is a no, and so is "know". Source: MME's evaluation tool (calculation.py).
    """
    start = text.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def category_metrics(pairs: Sequence[tuple[tuple[str, str], tuple[str, str]]]) -> dict:
    """Of one category: acc and acc_plus (fractions), score (points, at most 200), and counts.

    acc: right answers among the questions; acc_plus: images with both right; score: 100 acc + 100 acc_plus.

    Args:
        pairs: per image, the (truth, answer) of its two questions; at least one image.

    Source: MME (Fu et al. 2023) and its evaluation tool.
    """
    right = [[truth == answer for truth, answer in image] for image in pairs]
    answers = [answer for image in pairs for _, answer in image]
    acc, acc_plus = sum(map(sum, right)) / (2 * len(right)), sum(map(all, right)) / len(right)
    result = {"images": len(pairs), "acc": acc, "acc_plus": acc_plus, "score": 100 * acc + 100 * acc_plus}
    return result | {"yes_ratio": answers.count("yes") / len(answers), "other": answers.count("other")}


def score_mme(questions: Sequence[Question], answers: Mapping[tuple[str, str, str], str]) -> dict:
    """All four categories, and their scores summed by level.

    Args:
        questions: from `load_mme`, the two of an image side by side.
        answers: the text by `Question.key`; those of other questions are left alone.

    Raises:
        ValueError: a question without an answer, for a score over fewer would not be MME's.
    """
    result: dict = {}
    for category in CATEGORIES:
        asked = [question for question in questions if question.category == category]
        for question in asked:
            if question.key not in answers:
                raise ValueError(f"no answer to {category}/{question.image}: {question.text!r}")
        pairs = [(question.answer, parse_answer(answers[question.key])) for question in asked]
        result[category] = category_metrics(list(zip(pairs[::2], pairs[1::2], strict=True)))
    return result | {level: sum(result[category]["score"] for category in part) for level, part in LEVELS.items()}
