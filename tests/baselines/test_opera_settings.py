"""OPERA's penalties and summaries by hand, its presets, and wrong settings."""

import math

import pytest
import torch

from llava_hh.baselines.opera import PRESETS, OperaSettings
from llava_hh.baselines.retrospection import Search, most_common, penalise


def test_penalties_by_hand():
    products = torch.zeros(1, 10, dtype=torch.double)
    products[0, 4] = math.log(6)
    weights = torch.full((1, 2, 11), 0.02)
    weights[0, 0, 4], weights[0, 1, 10] = 0.5, 0.9
    mass = torch.tensor([[0.25, 0.5]])
    penalties, places = penalise(products, weights, mass, 50, "exact")
    assert places.tolist() == [[4, 10]]
    assert penalties[0].tolist() == pytest.approx([1e-7 * 6 * 25, 1e-7 * 45])
    released, places = penalise(products, weights, mass, 50, "released")
    assert places.tolist() == [[4, 10]]
    assert released[0].tolist() == [torch.tensor(value).half().item() for value in penalties[0].tolist()]
    # what fp16 cannot tell from 0 leaves the first position as the most trusted
    assert penalise(products, weights / 2000, mass, 50, "released")[1].tolist() == [[0, 0]]
    # ten tokens with the candidate: the image counts, and a summary is named all the same
    early, places = penalise(products[:, 1:], weights[..., 1:], mass, 50, "exact")
    assert early.tolist() == [[-0.25, -0.5]] and places.tolist() == [[3, 9]]
    for variant in ("exact", "released"):
        assert penalise(products + 1000, weights, mass, 50, variant)[0].isfinite().all()
        assert not penalise(products, weights * 0, mass, 50, variant)[0].any()


def test_most_common():
    assert most_common([3, 1, 3, 1, 2]) == 1
    assert most_common([4]) == 4


def test_a_summary_must_be_agreed_upon_and_far_enough():
    search = Search(
        OperaSettings(threshold=2, num_candidates=1), torch.zeros(5), torch.ones(3, dtype=torch.bool), set(), 99
    )
    search.states = dict.fromkeys(range(15))
    for named, expected in [
        ([[11, 11]] * 3, 12),
        ([[11, 11]] * 3, 11),  # 12 was used up
        ([[11, 11]] * 3, None),
        ([[10, 10]] * 3, 10),  # so was 11
        ([[10, 10]] * 3, None),
        ([[9, 9]] * 3, None),  # before the tenth position
        ([[12, 12]] * 2 + [[12, 3]], None),  # not all in more than two steps
        ([[12]] * 2 + [[12, 12]] * 3, 13),
        ([[13, 13]] * 3, None),  # nothing has been chosen at 14 yet
    ]:
        search.summaries = named
        assert search.position_to_return_to() == expected, named
    assert search.returns == {10: 1, 11: 1, 12: 1, 13: 1}


def test_presets():
    assert PRESETS["opera"] == OperaSettings(5, 5, 50, 15, 1, 512, "exact")
    assert PRESETS["opera_fast"] == OperaSettings(5, 1, 50, 25, 1, 512, "exact")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"num_beams": 0}, "num_beams must be a whole number of at least 1, not 0"),
        ({"num_candidates": 2.0}, "num_candidates must be a whole number of at least 1, not 2.0"),
        ({"scale_factor": 0}, "scale_factor must be a number above 0, not 0"),
        ({"threshold": -1}, "threshold must be a whole number of at least 0, not -1"),
        ({"penalty_weight": -0.1}, "penalty_weight must be a number of at least 0, not -0.1"),
        ({"window": True}, "window must be a whole number of at least 1, not True"),
        ({"variant": "fp16"}, "variant must be 'exact' or 'released', not 'fp16'"),
    ],
)
def test_wrong_settings_are_one_line(wrong, words):
    with pytest.raises(ValueError, match=f"^OperaSettings: {words}$"):
        OperaSettings(**wrong)
