"""Contrastive influence and its ranking, worked out by hand."""

import numpy as np
import pytest

from llava_hh.attribution.contrast import contrastive_influence, influence, rank_heads


def test_influence_is_the_drop_of_the_probability():
    clean = np.array([0.5, 0.9])
    ablated = np.array([[[0.2, 0.5]], [[1.0, 0.9]]])
    assert influence(clean, ablated) == pytest.approx(np.array([[[0.3, 0.0]], [[-0.1, 0.0]]]))


def test_contrast_is_the_difference_of_means():
    influences = np.array([[[0.4, 0.0]], [[0.2, 0.1]], [[0.1, 0.3]]])
    contrast = contrastive_influence(influences, np.array([True, True, False]))
    assert contrast == pytest.approx(np.array([[0.3 - 0.1, 0.05 - 0.3]]))


@pytest.mark.parametrize(
    ("kinds", "missing"), [([True, True], "non-hallucinated"), ([False, False], "no hallucinated")]
)
def test_both_kinds_of_words_are_needed(kinds, missing):
    with pytest.raises(ValueError, match=missing):
        contrastive_influence(np.zeros((2, 1, 1)), np.array(kinds))


def test_ranking_both_ways_with_ties_to_the_lower_head():
    contrast = np.array([[0.1, 0.5, -0.2], [0.5, 0.0, 0.3]])
    best, worst = rank_heads(contrast, 3)
    assert best == [(0, 1), (1, 0), (1, 2)]
    assert worst == [(0, 2), (1, 1), (0, 0)]
