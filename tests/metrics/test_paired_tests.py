"""Paired tests and Holm's correction: all swaps written out in fractions, ties, and values by hand."""

from itertools import product

import numpy as np
import pytest

from llava_hh.metrics.of_captions import METRICS, metrics_in_tables, sentence_counts
from llava_hh.metrics.statistics import (
    PERMUTATIONS,
    RESAMPLES,
    compare_with_reference,
    holm,
    image_weights,
    permutation_p_values,
    smallest_p,
)
from tests.support.scored_entries import CAPTIONS, entries, fractions_of, random_entries

NO_DIFFERENCE = {"difference": 0.0, "interval": {"difference": [0.0, 0.0]}, "p": 1.0, "p_holm": 1.0}


def exact_p_values(own, reference):
    """Share of all 2^n swaps with at least the observed absolute difference, of each metric."""

    def gaps(swaps):
        pairs = [(b, a) if swap else (a, b) for a, b, swap in zip(own, reference, swaps, strict=True)]
        first, second = zip(*pairs, strict=True)
        return [abs(a - b) for a, b in zip(fractions_of(first), fractions_of(second), strict=True)]

    observed = gaps([False] * len(own))
    everything = [gaps(swaps) for swaps in product([False, True], repeat=len(own))]
    hits = [sum(row[place] >= observed[place] for row in everything) for place in range(len(METRICS))]
    return [count / len(everything) for count in hits]


def test_difference_and_interval_are_paired():
    greedy = entries()
    better = entries([(text.replace(" and a cat", ""), objects) for text, objects in CAPTIONS])
    difference = compare_with_reference({"greedy": greedy, "better": better}, "greedy")["better"]
    assert list(difference) == metrics_in_tables()
    assert difference["CHAIRs"]["difference"] == pytest.approx(-4 / 12, abs=1e-5)
    # the same images in both: the same recall in every resample
    assert difference["recall"] == NO_DIFFERENCE | {"p_floor": round(2 / 2**12, 6)}
    weights = np.concatenate(list(image_weights(12, RESAMPLES, seed=0)))
    expected = np.percentile(-weights[:, ::3].sum(1) / 12, (2.5, 97.5))
    assert difference["CHAIRs"]["interval"]["difference"] == pytest.approx(expected, abs=1e-5)
    # 4 captions differ, all to the better: 2 of the 16 ways to swap them are as far apart
    assert difference["CHAIRs"]["p"] == 2 / 16
    assert difference["CHAIRs"]["p_holm"] == 8 * 2 / 16


@pytest.mark.parametrize(
    ("n", "seed"), [(2, 0), (3, 1), (4, 2), (5, 3), (6, 4), (6, 5), (6, 6), (6, 7), (8, 8), (13, 9)]
)
def test_p_values_equal_all_swaps_in_exact_fractions(n, seed):
    assert 2**n <= PERMUTATIONS
    methods = {
        "a": random_entries(n, seed),
        "b": random_entries(n, seed + 100),
        "reference": random_entries(n, seed + 200),
    }
    result = compare_with_reference(methods, "reference", METRICS)
    for name in ("a", "b") if n < 10 else ("a",):
        expected = exact_p_values(methods[name], methods["reference"])
        assert [result[name][metric]["p"] for metric in METRICS] == pytest.approx(expected, abs=1e-6)


def test_equal_differences_of_unequal_fractions_are_ties():
    """All four swaps have CHAIR_i 0.001 apart: 897/2000 - 1790/4000, or 1345/3000 - 1342/3000."""
    own, reference = np.zeros((2, 2, 2 * len(METRICS)))
    above = 2 * list(METRICS).index("CHAIRi")
    own[:, above], own[:, above + 1] = (447, 450), (1000, 1000)
    reference[:, above], reference[:, above + 1] = (895, 895), (2000, 2000)
    assert 897 / 2000 - 1790 / 4000 > 1345 / 3000 - 1342 / 3000  # by rounding alone
    assert permutation_p_values(own[None], reference)[0, list(METRICS).index("CHAIRi")] == 1.0


def test_random_swaps_come_near_all_swaps():
    methods = {"own": random_entries(16, 0), "reference": random_entries(16, 1)}
    change = sentence_counts(methods["own"]) - sentence_counts(methods["reference"])
    signs = 1 - 2 * np.array(list(product([0, 1], repeat=16)))
    for metric in ("CHAIRs", "mentions", "length"):  # plain sums
        column = 2 * list(METRICS).index(metric)
        expected = np.mean(np.abs(signs @ change[:, column]) >= abs(change[:, column].sum()))
        found = compare_with_reference(methods, "reference")["own"][metric]["p"]
        assert found == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / PERMUTATIONS) + 1e-4)


@pytest.mark.parametrize("n", [1, 5, 40])
def test_equal_captions_have_p_of_one(n):
    same = random_entries(n, 3)
    result = compare_with_reference({"greedy": same, "same": same}, "greedy")["same"]
    for entry in result.values():
        assert {**entry, "p_floor": None} == NO_DIFFERENCE | {"p_floor": None}


def test_a_difference_of_zero_between_other_captions_has_p_of_one():
    first, second = ("A cat.", {"dog"}), ("A dog.", {"dog"})
    methods = {"greedy": entries([first, second] * 20), "other": entries([second, first] * 20)}
    assert compare_with_reference(methods, "greedy", ["CHAIRi"])["other"]["CHAIRi"]["p"] == 1.0


def test_one_image_says_nothing():
    methods = {"greedy": entries([("A cat.", {"dog"})]), "other": entries([("A dog.", {"dog"})])}
    assert compare_with_reference(methods, "greedy", ["CHAIRi"])["other"]["CHAIRi"]["p"] == 1.0


@pytest.mark.parametrize("n", [1, 2, 5, 13, 14, 30])
def test_the_smallest_p_is_that_of_a_difference_in_all_images(n):
    worse = [("A dog and a cat.", {"dog"}), *[("A dog and " + "a cat, " * k, {"dog"}) for k in range(1, n)]]
    methods = {"greedy": entries(worse[:n]), "other": entries([("A dog.", {"dog"})] * n)}
    found = compare_with_reference(methods, "greedy", ["mentions"])["other"]["mentions"]
    assert found["p"] == found["p_floor"] == round(smallest_p(n), 6)
    assert smallest_p(n) == {1: 1.0, 2: 0.5, 5: 2 / 32, 13: 2 / 8192}.get(n, 1 / 10_000)


def test_correction_is_over_the_chosen_metrics_of_all_methods():
    methods = {name: random_entries(40, seed) for seed, name in enumerate(("greedy", "a", "b", "c"))}
    chosen = compare_with_reference(methods, "greedy", ["CHAIRi", "length"])
    assert {tuple(entry) for entry in chosen.values()} == {("CHAIRi", "length")}
    flat = [entry for own in chosen.values() for entry in own.values()]
    assert [entry["p_holm"] for entry in flat] == pytest.approx(holm([entry["p"] for entry in flat]), abs=1e-5)
    everything = compare_with_reference(methods, "greedy")
    assert chosen["b"]["CHAIRi"]["p"] == everything["b"]["CHAIRi"]["p"]
    assert compare_with_reference({"greedy": methods["greedy"]}, "greedy") == {}


def test_a_method_with_fewer_images_is_compared_over_them():
    greedy, whole, part = (random_entries(40, seed) for seed in range(3))
    part = [entry for place, entry in enumerate(part) if place % 4 == 1]
    found = compare_with_reference({"greedy": greedy, "part": part, "whole": whole}, "greedy")
    assert list(found) == ["part", "whole"]
    alone = {
        "part": compare_with_reference({"greedy": greedy[1::4], "part": part}, "greedy")["part"],
        "whole": compare_with_reference({"greedy": greedy, "whole": whole}, "greedy")["whole"],
    }
    corrected = holm([entry["p"] for own in alone.values() for entry in own.values()])
    together = [entry for own in found.values() for entry in own.values()]
    assert [entry["p_holm"] for entry in together] == pytest.approx(corrected, abs=1e-4)
    for own, other in zip(found.values(), alone.values(), strict=True):
        for metric in metrics_in_tables():
            assert {**own[metric], "p_holm": None} == {**other[metric], "p_holm": None}


@pytest.mark.parametrize(
    ("p", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # 4 x .005, 3 x .01, 2 x .03; .04 follows .03
        ([0.5, 0.5], [1.0, 1.0]),
        ([0.2], [0.2]),
        ([0.9, 0.0, 0.9], [1.0, 0.0, 1.0]),
        ([], []),
    ],
)
def test_holm_by_hand(p, adjusted):
    assert holm(p) == pytest.approx(np.array(adjusted))


@pytest.mark.parametrize("p", [[0.1, float("nan")], [1.1], [-0.1], [[0.1]]])
def test_holm_refuses_what_is_no_p_value(p):
    with pytest.raises(ValueError, match="flat list of numbers from 0 to 1"):
        holm(p)
