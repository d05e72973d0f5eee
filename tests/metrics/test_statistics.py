"""Summaries, intervals and paired tests: values by hand, a resampling loop, and all swaps written out in fractions."""

from statistics import mean, stdev

import numpy as np
import pytest

from llava_hh.metrics.of_captions import METRICS
from llava_hh.metrics.statistics import (
    RESAMPLES,
    compare_with_reference,
    image_weights,
    mean_with_interval,
    spread_over_runs,
    summarise,
    summarise_mean,
)
from tests.support.scored_entries import entries, fractions_of, random_entries


def test_values_by_hand():
    summary = summarise(entries())
    assert summary["CHAIRs"] == pytest.approx(4 / 12, abs=1e-5)
    assert summary["CHAIRi"] == pytest.approx(4 / 12, abs=1e-5)  # cat, of dog, cat, fork
    assert summary["precision"] == pytest.approx(8 / 12, abs=1e-5)  # dog and fork, of dog, cat, fork
    assert summary["recall"] == pytest.approx(8 / 16)  # dog and fork, of dog, fork, knife, car
    assert summary["f1"] == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2), abs=1e-5)
    assert summary["mentions"] == 1.0
    assert summary["length"] == pytest.approx((6 + 3 + 3) / 3)  # the full stop is an item
    assert summary["n"] == 12


def test_precision_and_recall_count_a_category_once_a_caption():
    summary = summarise(entries([("A dog, a puppy, dogs and a cat.", {"dog"}), ("A dog.", {"dog"})]))
    assert summary["CHAIRi"] == 0.2
    assert summary["precision"] == pytest.approx(2 / 3, abs=1e-5)
    assert (summary["mentions"], summary["distinct"]) == (5 / 2, 3 / 2)  # dog and cat; dog
    assert summary["repeated"] == pytest.approx(1 - 3 / 5)
    assert summary["recall"] == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_values_equal_their_definitions_in_fractions(seed):
    sentences = random_entries(7, seed)
    summary = summarise(sentences)
    assert [summary[name] for name in METRICS] == pytest.approx(list(map(float, fractions_of(sentences))), abs=1e-5)


def test_captions_without_objects_are_zero_and_not_an_error():
    summary = summarise(entries([("Nothing here.", set())]))
    expected = dict.fromkeys(METRICS, 0.0) | {"length": 3.0, "n": 1}
    assert {name: summary[name] for name in expected} == expected


def test_interval_equals_a_plain_bootstrap():
    sentences = entries()
    weights = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), size=RESAMPLES)
    values = []
    for row in weights:
        drawn = [entry for entry, times in zip(sentences, row, strict=True) for _ in range(times)]
        wrong = sum(len(entry["mscoco_hallucinated_words"]) for entry in drawn)
        total = wrong + sum(len(entry["mscoco_non_hallucinated_words"]) for entry in drawn)
        values.append(wrong / max(total, 1))
    assert summarise(sentences)["interval"]["CHAIRi"] == pytest.approx(np.percentile(values, (2.5, 97.5)), abs=1e-5)


def test_weights_do_not_depend_on_the_size_of_the_pieces(monkeypatch):
    whole = np.concatenate(list(image_weights(5, 20, seed=3)))
    monkeypatch.setattr("llava_hh.metrics.statistics.PIECE", 15)
    pieces = list(image_weights(5, 20, seed=3))
    assert [len(piece) for piece in pieces] == [3] * 6 + [2]
    assert np.array_equal(np.concatenate(pieces), whole)


def test_mean_of_draws():
    first, second = entries(), entries([("A car.", {"car"})] * 12)
    mean = summarise_mean([first, second])
    assert mean["CHAIRi"] == pytest.approx((4 / 12 + 0) / 2, abs=1e-5)
    assert mean["recall"] == pytest.approx((0.5 + 1) / 2)


@pytest.mark.parametrize("own_reference", [False, True])
def test_spread_over_runs_by_its_definitions(own_reference):
    runs = [random_entries(9, seed) for seed in range(3)]
    references = [random_entries(9, seed) for seed in range(7, 10 if own_reference else 8)]
    spread = spread_over_runs(runs, references)
    assert (spread["n_runs"], spread["n"]) == (3, 9)
    paired = references if own_reference else references * 3
    for place, metric in enumerate(METRICS):
        values = [float(fractions_of(run)[place]) for run in runs]
        differences = [v - float(fractions_of(other)[place]) for v, other in zip(values, paired, strict=True)]
        for found, own in ((spread[metric], values), (spread[metric]["minus_reference"], differences)):
            assert found["values"] == pytest.approx(own, abs=1e-5)
            assert (found["mean"], found["sd"]) == pytest.approx((mean(own), stdev(own)), abs=2e-5)
            assert found["range"] == pytest.approx([min(own), max(own)], abs=1e-5)
        half = 4.302652729911275 * stdev(differences) / 3**0.5  # Student's t, two degrees of freedom
        expected = [mean(differences) - half, mean(differences) + half]
        assert spread[metric]["minus_reference"]["interval"]["mean"] == pytest.approx(expected, abs=2e-5)
    chosen = [np.repeat(range(9), times) for times in np.concatenate([*image_weights(9, RESAMPLES, 0)]).astype(int)]
    variances = []
    for run, other in zip(runs, paired, strict=True):
        wrong = np.array(
            [[bool(e["mscoco_hallucinated_words"]) for e in entries] for entries in (run, other)], dtype=float
        )
        variances.append(np.var([wrong[0, own].mean() - wrong[1, own].mean() for own in chosen], ddof=1))
    assert spread["CHAIRs"]["minus_reference"]["sd_images"] == pytest.approx(np.mean(variances) ** 0.5, abs=1e-5)


def test_spread_needs_runs_and_the_same_images():
    runs = [random_entries(4, seed) for seed in range(3)]
    for wrong in ((runs[:1], runs[:1]), (runs, runs[:2])):
        with pytest.raises(ValueError, match="expected two or more, and one or as many"):
            spread_over_runs(*wrong)
    with pytest.raises(ValueError, match="same images"):
        spread_over_runs(runs, [random_entries(4, 5)[::-1]])


def test_wrong_input_is_named():
    first, second = entries(), entries()
    with pytest.raises(ValueError, match="no method 'nobody'.*: greedy, other"):
        compare_with_reference({"greedy": first, "other": second}, "nobody")
    with pytest.raises(ValueError, match="'chair_x' is not known; expected some of: CHAIRs"):
        compare_with_reference({"greedy": first, "other": second}, "greedy", ["CHAIRi", "chair_x"])
    with pytest.raises(ValueError, match="same images"):
        compare_with_reference({"greedy": first[1:], "other": second[:-1]}, "greedy")
    with pytest.raises(ValueError, match="same images"):
        compare_with_reference({"greedy": first, "other": second[::-1]}, "greedy")
    with pytest.raises(ValueError, match="same images"):
        summarise_mean([first[1:], second[:-1]])
    with pytest.raises(ValueError, match="no captions"):
        summarise([])


def test_a_mean_and_its_interval_stay_among_the_values():
    """Of equal values they are that value: a weighted sum of them can be off by its last bit."""
    for n in (1, 3, 7, 49):
        for value in (0.1, 0.7, 1 / 3, 1e-3):
            mean, interval = mean_with_interval(np.full((n, 2), value), 200)
            assert (mean == value).all() and (interval == value).all() and interval.shape == (2, 2)
    values = np.random.default_rng(0).random(40)
    mean, (low, high) = mean_with_interval(values, 2000, seed=3)
    drawn = [values[np.random.default_rng(number).integers(0, 40, 40)].mean() for number in range(4000)]
    assert mean == pytest.approx(sum(values) / 40)
    # percentiles of 2000 and of 4000 draws: their density there is a twentieth of the spread's
    assert (low, high) == pytest.approx(np.percentile(drawn, (2.5, 97.5)), abs=0.2 * np.std(drawn))
