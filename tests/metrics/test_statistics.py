"""Summaries, intervals and paired tests: values by hand, a resampling loop, and all swaps written out in fractions."""

from fractions import Fraction
from itertools import product
from statistics import mean, stdev

import numpy as np
import pytest

from llava_hh.metrics.chair.chair import score_caption
from llava_hh.metrics.of_captions import METRICS, metrics_in_tables, sentence_counts
from llava_hh.metrics.statistics import (
    PERMUTATIONS,
    RESAMPLES,
    compare_with_reference,
    holm,
    image_weights,
    mean_with_interval,
    permutation_p_values,
    smallest_p,
    spread_over_runs,
    summarise,
    summarise_mean,
)

CAPTIONS = [("A dog and a cat.", {"dog"}), ("A fork.", {"fork", "knife"}), ("Nothing here.", {"car"})] * 4
NO_DIFFERENCE = {"difference": 0.0, "interval": {"difference": [0.0, 0.0]}, "p": 1.0, "p_holm": 1.0}


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
