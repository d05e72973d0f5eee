"""Summaries with intervals: hand-worked values, and a resampling loop written out."""

import numpy as np
import pytest

from llava_hh.metrics.chair import score_caption
from llava_hh.metrics.compare import METRICS, RESAMPLES, summarise, summarise_difference, summarise_mean

CAPTIONS = [("A dog and a cat.", {"dog"}), ("A fork.", {"fork", "knife"}), ("Nothing here.", {"car"})] * 4


def entries(captions=CAPTIONS):
    return [{"image_id": n, **score_caption(text, objects)} for n, (text, objects) in enumerate(captions)]


def test_values_by_hand():
    summary = summarise(entries())
    assert summary["chair_s"] == pytest.approx(4 / 12, abs=1e-5)
    assert summary["chair_i"] == pytest.approx(4 / 12, abs=1e-5)  # cat, of dog, cat, fork
    assert summary["recall"] == pytest.approx(8 / 16)
    assert summary["mentions"] == 1.0
    assert summary["n"] == 12


def test_interval_equals_a_plain_bootstrap():
    sentences = entries()
    weights = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), size=RESAMPLES)
    values = []
    for row in weights:
        drawn = [entry for entry, times in zip(sentences, row, strict=True) for _ in range(times)]
        wrong = sum(len(entry["mscoco_hallucinated_words"]) for entry in drawn)
        total = wrong + sum(len(entry["mscoco_non_hallucinated_words"]) for entry in drawn)
        values.append(wrong / max(total, 1))
    assert summarise(sentences)["interval"]["chair_i"] == pytest.approx(np.percentile(values, (2.5, 97.5)), abs=1e-5)


def test_difference_is_paired():
    greedy = entries()
    better = entries([(text.replace(" and a cat", ""), objects) for text, objects in CAPTIONS])
    difference = summarise_difference(better, greedy)
    assert difference["chair_s"][0] == pytest.approx(-4 / 12, abs=1e-5)
    assert difference["recall"] == [0.0, 0.0, 0.0]  # paired: the same images, the same recall, no spread
    assert set(difference) == set(METRICS)
    with pytest.raises(ValueError, match="same images"):
        summarise_difference(better[1:], greedy[:-1])


def test_mean_of_draws():
    first, second = entries(), entries([("A car.", {"car"})] * 12)
    mean = summarise_mean([first, second])
    assert mean["chair_i"] == pytest.approx((4 / 12 + 0) / 2, abs=1e-5)
    assert mean["recall"] == pytest.approx((0.5 + 1) / 2)
