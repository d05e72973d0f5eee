"""Contrastive influence and its ranking, worked out by hand."""

import numpy as np
import pytest

from llava_hh.attribution.contrast import READ_OUTS, contrastive_influence, influence, rank_heads

CLEAN = np.log(np.array([0.5, 0.9], dtype=np.float32))
ABLATED = np.log(np.array([[[0.25, 0.5]], [[1.0, 0.9]]], dtype=np.float32))  # target layer head


@pytest.mark.parametrize(
    ("read_out", "expected"),
    [
        ("probability", [[[0.25, 0.0]], [[-0.1, 0.0]]]),
        ("absolute", [[[0.25, 0.0]], [[0.1, 0.0]]]),
        ("log", [[[np.log(2), 0.0]], [[np.log(0.9), 0.0]]]),
    ],
)
def test_influence_by_hand(read_out, expected):
    assert influence(CLEAN, ABLATED, read_out) == pytest.approx(np.array(expected), abs=1e-7)


def test_influence_is_of_the_probability_unless_said():
    assert READ_OUTS[0] == "probability"
    assert np.array_equal(influence(CLEAN, ABLATED), influence(CLEAN, ABLATED, "probability"))


@pytest.mark.parametrize("read_out", READ_OUTS)
def test_modules_have_the_influence_of_a_layer_of_one_head(read_out):
    modules = influence(CLEAN, ABLATED[:, 0], read_out)
    assert modules.shape == (2, 2)
    assert np.array_equal(modules, influence(CLEAN, ABLATED, read_out)[:, 0])


def test_wrong_log_probabilities_and_read_outs_are_named():
    with pytest.raises(ValueError, match="'odds' is not known; expected one of: probability, absolute, log"):
        influence(CLEAN, ABLATED, "odds")
    with pytest.raises(ValueError, match="other targets"):
        influence(CLEAN[:1], ABLATED)


def test_contrast_is_the_difference_of_means():
    influences = np.array([[[0.4, 0.0]], [[0.2, 0.1]], [[0.1, 0.3]]])
    contrast = contrastive_influence(influences, np.array([True, True, False]))
    assert contrast == pytest.approx(np.array([[0.3 - 0.1, 0.05 - 0.3]]))
    of_modules = contrastive_influence(influences[:, 0], np.array([True, True, False]))
    assert np.array_equal(of_modules, contrast[0])


def test_matched_by_object_by_a_loop():
    rng = np.random.default_rng(3)
    influences, hallucinated = rng.normal(size=(60, 2, 3)), rng.random(60) < 0.4
    objects = rng.choice(["cup", "dog", "fork", "kite", "bed"], 60)
    hallucinated[objects == "kite"], hallucinated[objects == "bed"] = True, False
    added, count = 0, 0
    for name in ("cup", "dog", "fork"):
        wrong = [
            value for value, here, node in zip(influences, hallucinated, objects, strict=True) if here and node == name
        ]
        right = [
            value
            for value, here, node in zip(influences, hallucinated, objects, strict=True)
            if not here and node == name
        ]
        added, count = added + len(wrong) * (sum(wrong) / len(wrong) - sum(right) / len(right)), count + len(wrong)
    contrast = contrastive_influence(influences, hallucinated, objects)
    np.testing.assert_allclose(contrast, added / count, atol=1e-12)
    shifts = {"cup": 5.0, "dog": -3.0, "fork": 0.5, "kite": 80.0, "bed": -20.0}  # what a head does for a word itself
    shifted = influences + np.array([shifts[name] for name in objects])[:, None, None]
    np.testing.assert_allclose(contrastive_influence(shifted, hallucinated, objects), contrast, atol=1e-12)
    with pytest.raises(ValueError, match="no object is hallucinated in one place and true in another"):
        contrastive_influence(influences, hallucinated, np.where(hallucinated, "a", "b"))


def test_marks_must_fit_the_targets():
    for marks in (np.array([True, False]), np.array([1, 0, 1])):
        with pytest.raises(ValueError, match="3 targets need as many marks"):
            contrastive_influence(np.zeros((3, 1, 1)), marks)


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
