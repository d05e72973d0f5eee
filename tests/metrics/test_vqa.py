"""VQA accuracy and exact match: answers worked by hand, and the average over annotators written out."""

from fractions import Fraction
from itertools import product

import pytest

from llava_hh.metrics.vqa import exact_match, normalise_answer, vqa_accuracy


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes", "yes"),
        ("  a dog\n", "dog"),
        ("The cat and THE dog", "cat and dog"),
        ("an\tapple", "apple"),
        ("two", "2"),
        ("None", "0"),
        ("zero ten", "0 10"),
        ("twenty one", "twenty 1"),
        ("dont know", "don't know"),
        ("don't know", "don't know"),
        ("it's", "it's"),
        ("youd've", "you'd've"),
        ("somebody'd", "somebodyd"),  # the table's own oddity
        ("t-shirt", "t shirt"),  # a mark between letters becomes a blank
        ("black - white", "black white"),  # at a blank it goes
        ("well-known, too", "well known too"),  # each mark by itself
        ("well-known - too", "wellknown too"),  # one at a blank takes the others of its kind along
        ("1,000", "1000"),
        ("1,000 t-shirts", "1000 tshirts"),  # a comma between digits takes all marks along
        ("red,blue", "red blue"),
        ("yes.", "yes"),
        ("3.5", "3.5"),
        ("3.5.", "3.5"),
        ("a.m. 5", "am 5"),
        ("what?", "what"),
        ("(left)", "left"),
        ("50%", "50%"),
        ("5:30", "5:30"),
        ("A", ""),
        ("", ""),
        (" \n ", ""),
        ("...", ""),
    ],
)
def test_normalised_answers(answer, expected):
    assert normalise_answer(answer) == expected


@pytest.mark.parametrize("n_agreeing", range(11))
def test_accuracy_by_the_number_of_agreeing_annotators(n_agreeing):
    """Of ten annotators: 0, .3, .6, .9, 1, 1, ... as VQA's authors list them."""
    expected = [0, 0.3, 0.6, 0.9][n_agreeing] if n_agreeing < 4 else 1
    assert vqa_accuracy("Two", ["2"] * n_agreeing + ["3"] * (10 - n_agreeing)) == pytest.approx(expected)


def test_accuracy_is_the_mean_over_subsets_that_leave_one_out():
    for answers in product("xyz", repeat=5):
        subsets = [answers[:place] + answers[place + 1 :] for place in range(5)]
        expected = sum(min(Fraction(subset.count("x"), 3), Fraction(1)) for subset in subsets) / 5
        assert vqa_accuracy("X", answers) == pytest.approx(float(expected))


def test_both_sides_are_normalised():
    assert vqa_accuracy("T-shirt.", ["t-shirt"] * 10) == 1
    assert vqa_accuracy("the two dogs", ["2 dogs", "two dogs", "2 dogs!", "a cat"]) == pytest.approx(
        (2 / 3 * 3 + 1) / 4
    )


@pytest.mark.parametrize(
    ("answer", "annotators", "expected"),
    [
        ("", ["yes"] * 10, 0),
        ("", ["", "", "", "", "no"], 1),
        ("the", ["a"] * 4, 1),  # nothing is left of either
        ("yes", ["yes"], 0),
        ("yes", ["yes", "yes"], 1 / 3),
        ("yes", ["yes"] * 3, 2 / 3),
    ],
)
def test_degenerate_answers(answer, annotators, expected):
    assert vqa_accuracy(answer, annotators) == pytest.approx(expected)


def test_no_annotators_are_refused():
    with pytest.raises(ValueError, match="no annotators"):
        vqa_accuracy("yes", [])


@pytest.mark.parametrize(
    ("answer", "truth", "expected"),
    [
        ("Left.", "left", True),
        (" left ", "left", True),
        ("the left", "left", False),
        ("two", "2", False),
        ("3.5", "3.5", True),
        ("left . ", "left", True),
        ("", "left", False),
        ("", "", True),
    ],
)
def test_exact_match(answer, truth, expected):
    assert exact_match(answer, truth) is expected
