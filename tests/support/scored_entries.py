"""Scored captions for tests of statistics, and the metrics by their definitions in fractions."""

from fractions import Fraction

import numpy as np

from llava_hh.metrics.chair.chair import score_caption

CAPTIONS = [("A dog and a cat.", {"dog"}), ("A fork.", {"fork", "knife"}), ("Nothing here.", {"car"})] * 4


def entries(captions=CAPTIONS):
    return [{"image_id": n, **score_caption(text, objects)} for n, (text, objects) in enumerate(captions)]


def random_entries(n, seed):
    """Captions of up to three right and two wrong objects, with repeats, and of some length."""
    rng = np.random.default_rng(seed)
    made = []
    for image_id in range(n):
        right = [["", str(node)] for node in rng.integers(0, 3, rng.integers(0, 4))]
        wrong = [["", str(node)] for node in rng.integers(5, 7, rng.integers(0, 3))]
        words = ["a"] * int(rng.integers(3, 6))
        made.append({"image_id": image_id, "mscoco_hallucinated_words": wrong, "words": words})
        made[-1] |= {"mscoco_non_hallucinated_words": right, "mscoco_gt_words": ["0", "1", "2"]}
    return made


def fractions_of(sentences):
    """METRICS by their definitions, exact."""
    wrong = [[node for _, node in entry["mscoco_hallucinated_words"]] for entry in sentences]
    right = [[node for _, node in entry["mscoco_non_hallucinated_words"]] for entry in sentences]
    n, n_wrong, found = len(sentences), sum(map(len, wrong)), sum(len(set(nodes)) for nodes in right)
    mentions = n_wrong + sum(map(len, right))
    precision = Fraction(found, max(1, found + sum(len(set(nodes)) for nodes in wrong)))
    recall = Fraction(found, max(1, sum(len(entry["mscoco_gt_words"]) for entry in sentences)))
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else Fraction(0)
    chairs = (Fraction(sum(map(bool, wrong)), n), Fraction(n_wrong, max(1, mentions)))
    length = Fraction(sum(len(entry["words"]) for entry in sentences), n)
    distinct = sum(len({*mine, *others}) for mine, others in zip(right, wrong, strict=True))
    repeated = 1 - Fraction(distinct, mentions) if mentions else Fraction(0)
    return [*chairs, precision, recall, f1, Fraction(mentions, n), Fraction(distinct, n), repeated, length]
