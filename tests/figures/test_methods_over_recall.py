"""CHAIR_i over recall of methods, and labels that cover neither each other nor a point."""

import json
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from llava_hh.figures import methods_over_recall
from llava_hh.figures.drawn import PICTURES, redraw
from llava_hh.figures.labels import add_labels
from llava_hh.figures.style import ADHH, GREEDY, plt
from llava_hh.scripts import figure
from tests.support.repository import ROOT

MEASURED = ROOT / "results/mini/measured_methods.json"


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that would be saved."""
    figures: list[Figure] = []
    monkeypatch.setattr(methods_over_recall, "save_figure", lambda figure, *_: figures.append(figure))
    yield figures
    plt.close("all")


def boxes_of(texts: list) -> list[matplotlib.transforms.Bbox]:
    return [text.get_window_extent() for text in texts]


def test_every_method_is_a_point_of_its_recall_and_chair(drawn, tmp_path):
    methods_over_recall.draw_methods_over_recall(MEASURED, tmp_path / "out")
    axis = drawn[0].axes[0]
    methods = json.loads(MEASURED.read_text())["methods"]
    expected = {
        entry["label"]: (100 * entry["recall"], 100 * entry["CHAIRi"])
        for entry in methods.values()
        if "label" in entry and entry["label"] not in ("VAR", "VISTA")
    }
    names = [text.get_text() for text in axis.texts]
    assert names == list(expected)
    markers = [line for line in axis.lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in markers] == list(expected.values())
    assert [name for name, line in zip(names, markers, strict=True) if line.get_markerfacecolor() == "white"] == [
        "OPERA",
        "HALC",
    ]
    colours = dict(zip(names, (line.get_color() for line in markers), strict=True))
    assert [name for name, colour in colours.items() if colour in (GREEDY, ADHH)] == ["greedy", "AD-HH"]
    sizes = dict(zip(names, (line.get_markersize() for line in markers), strict=True))
    assert sizes["OPERA"] / sizes["greedy"] == pytest.approx(43.0771**0.25)
    assert "VAR" in axis.get_xlabel() and "VISTA" in axis.get_xlabel()


def test_labels_of_measured_methods_cover_nothing(drawn, tmp_path):
    methods_over_recall.draw_methods_over_recall(MEASURED, tmp_path / "out")
    axis = drawn[0].axes[0]
    drawn[0].draw_without_rendering()
    boxes = boxes_of(axis.texts)
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    markers = [line for line in axis.lines if line.get_marker() == "o" and len(line.get_xdata())]
    points = axis.transData.transform([(line.get_xdata()[0], line.get_ydata()[0]) for line in markers])
    assert not [point for point in points if any(box.contains(*point) for box in boxes)]
    assert all(axis.bbox.contains(*corner) for box in boxes for corner in (box.min, box.max))


def test_labels_of_equal_points_stand_beside_each_other():
    drawing, axis = plt.subplots()
    axis.plot([0, 1], [0, 1], ".")
    points = np.array([(0.5, 0.5)] * 6)
    add_labels(axis, points, [f"method {index}" for index in range(6)], [3] * 6, ["black"] * 6)
    drawing.draw_without_rendering()
    assert not [pair for pair in combinations(boxes_of(axis.texts), 2) if pair[0].overlaps(pair[1])]
    plt.close(drawing)


def test_no_points_have_no_labels():
    drawing, axis = plt.subplots()
    add_labels(axis, np.empty((0, 2)), [], [], [])
    assert not axis.texts
    plt.close(drawing)


def test_where_no_method_names_an_object_all_are_named_below(drawn, tmp_path):
    summary = json.loads(MEASURED.read_text())
    summary["methods"] = {name: summary["methods"][name] for name in ("greedy", "vista")}
    summary["methods"]["greedy"] |= {"mentions": 0.0}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    methods_over_recall.draw_methods_over_recall(tmp_path / "summary.json", tmp_path / "out")
    assert "no object named: greedy, VISTA" in drawn[0].axes[0].get_xlabel()


def test_the_verb_draws_it(tmp_path, capsys):
    figure.main(["draw", "methods_over_recall", str(MEASURED), "--out", str(tmp_path / "methods")])
    assert capsys.readouterr().out == f"{tmp_path}/methods.png\n{tmp_path}/methods.pdf\n"
    assert {path.name for path in tmp_path.iterdir()} == {"methods.png", "methods.pdf"}


@pytest.mark.parametrize("name", PICTURES)
def test_another_file_is_one_line(name, tmp_path):
    source = tmp_path / "other.json"
    source.write_text("{}")
    with pytest.raises((ValueError, OSError), match=r"other\.json") as error:
        redraw(name, source, tmp_path / "out")
    assert "KeyError" not in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {source.name}


def test_every_drawing_function_has_a_name():
    """Each picture of a JSON file can be drawn again; captions need images too."""
    found = {
        f"{path.stem}:{line.split('(')[0].removeprefix('def ')}"
        for path in Path(ROOT / "llava_hh/figures").glob("*.py")
        for line in path.read_text().splitlines()
        if line.startswith("def draw_") and "Path" in line
    }
    assert found - {"caption_examples:draw_caption_examples"} == {place for place, _ in PICTURES.values()}
