"""The control of figures 4 and 5, other heads of the same layers: against plain loops, by layer alone, and without."""

import numpy as np
import pytest

from llava_hh.experiments.measures import attention_inheritance, js_divergence
from llava_hh.heads import Head
from llava_hh.metrics.statistics import RESAMPLES, mean_with_interval

SHAPE = (4, 3)  # layer head
# Layer 0 has no hallucination head, layer 1 has two, layer 2 has no other head left, layer 3 has two others.
HAL_HEADS = [Head(1, 2), Head(3, 1), Head(2, 0), Head(1, 0)]
NON_HAL_HEADS = [Head(2, 1), Head(0, 2), Head(2, 2)]
REST = [[1, 1], [3, 0], [3, 2]]


def figure_4(values: np.ndarray, hal_heads: list[Head], non_hal_heads: list[Head]) -> dict:
    groups = attention_inheritance.split_heads(values.shape[1:], hal_heads, non_hal_heads)
    return attention_inheritance.summarise(values, groups)


def figure_5(values: np.ndarray, hal_heads: list[Head], non_hal_heads: list[Head]) -> dict:
    lists = {"hal_heads": hal_heads, "non_hal_heads": non_hal_heads}
    return js_divergence.summarise({5: values, 20: values**2}, lists)


def in_loops(values: np.ndarray) -> tuple[list[float], list[float]]:
    """By caption, the control and the hallucination heads minus it."""
    controls, differences = [], []
    for caption in values.tolist():
        control_sum = difference_sum = 0.0
        n_compared = 0
        for layer, head in HAL_HEADS:
            others = [
                caption[layer][other]
                for other in range(SHAPE[1])
                if (layer, other) not in HAL_HEADS and (layer, other) not in NON_HAL_HEADS
            ]
            if others:
                control = sum(others) / len(others)
                control_sum += control
                difference_sum += caption[layer][head] - control
                n_compared += 1
        assert n_compared == 3
        controls.append(control_sum / n_compared)
        differences.append(difference_sum / n_compared)
    return controls, differences


def assert_summary(found: dict, by_caption: list[float]) -> None:
    mean, interval = mean_with_interval(np.array(by_caption), RESAMPLES)
    assert found["mean"] == pytest.approx(sum(by_caption) / len(by_caption), abs=1e-14)
    assert float(mean) == pytest.approx(found["mean"], abs=1e-14)
    assert found["interval"]["mean"] == pytest.approx(interval.tolist(), abs=1e-14)
    assert interval[0] < interval[1]


def test_both_figures_equal_plain_loops():
    values = np.random.default_rng(0).random((6, *SHAPE))  # caption layer head
    controls, differences = in_loops(values)
    of_figure_4 = figure_4(values, HAL_HEADS, NON_HAL_HEADS)
    assert of_figure_4["groups"]["same_layers"]["heads"] == REST
    assert_summary(of_figure_4["groups"]["same_layers"], controls)
    assert_summary(of_figure_4["difference_same_layers"], differences)
    of_figure_5 = figure_5(values, HAL_HEADS, NON_HAL_HEADS)
    assert of_figure_5["same_layers"] == REST
    for step, of_step in zip(of_figure_5["steps"], (values, values**2), strict=True):
        controls, differences = in_loops(of_step)
        assert_summary(step["same_layers"], controls)
        assert_summary(step["difference_same_layers"], differences)


def test_a_difference_of_layers_is_none_of_heads():
    values = np.broadcast_to(np.arange(4)[:, None] / 4, (3, *SHAPE))
    [first, _] = figure_5(values, HAL_HEADS, NON_HAL_HEADS)["steps"]
    assert first["difference"]["mean"] > 0.05
    assert first["difference_same_layers"] == {"mean": 0, "interval": {"mean": [0, 0]}}
    assert figure_4(values, HAL_HEADS, NON_HAL_HEADS)["difference_same_layers"]["mean"] == 0


def test_without_other_heads_in_the_layers_there_is_no_control():
    values, lists = np.random.default_rng(1).random((2, *SHAPE)), ([Head(2, 0)], NON_HAL_HEADS)
    of_figure_4, of_figure_5 = figure_4(values, *lists), figure_5(values, *lists)
    assert list(of_figure_4["groups"]) == ["hal_heads", "non_hal_heads", "other_heads"]
    for content in (of_figure_4, of_figure_5, *of_figure_5["steps"]):
        assert not {"same_layers", "difference_same_layers"} & content.keys()
