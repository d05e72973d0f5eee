"""Figures for papers: their widths, the size of their text, the colours of roles, and captions chosen by a rule."""

import re

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from llava_hh.figures import caption_examples, drawn, style
from llava_hh.figures.caption_examples import choose, kinds_of, n_wrong
from llava_hh.metrics.chair.chair import score_caption
from llava_hh.scripts import figure
from tests.support.repository import ROOT

MINI = ROOT / "results/mini"
SOURCES = {  # of the pictures of mini that are committed
    "attention_bias": "attention_bias.json",
    "attention_inheritance": "attention_inheritance.json",
    "chair_categories": "chair_details.json",
    "chair_cooccurrence": "chair_details.json",
    "chair_positions": "chair_details.json",
    "finetuning": "finetuning_curves.jsonl",
    "head_map": "head_map.json",
    "js_divergence": "js_divergence.json",
    "methods": "methods.json",
    "methods_over_recall": "methods.json",
    "module_influence": "head_map.json",
    "source_maps": "influence_by_source.json",
    "trade_off": "trade_off.json",
}


@pytest.mark.parametrize("name", SOURCES)
def test_on_paper_a_figure_has_the_width_of_columns_and_text_of_8_points(name, tmp_path, monkeypatch):
    saved: list[Figure] = []
    save = Figure.savefig

    def note(own: Figure, *given: object, **named: object) -> None:
        saved.append(own)
        save(own, *given, **named)

    monkeypatch.setattr(Figure, "savefig", note)
    source = MINI / f"measured_{SOURCES[name]}"
    figure.main(["draw", name, str(source), "--style", "paper", "--out", str(tmp_path / "out")])
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", (tmp_path / "out.pdf").read_bytes())
    assert float(box[1]) / 72 in (pytest.approx(style.COLUMN, abs=0.01), pytest.approx(style.PAGE, abs=0.01))
    assert not saved[0].get_suptitle()
    texts = [text for text in saved[0].findobj(Text) if text.get_visible() and text.get_text().strip()]
    in_cells = [text for text in texts if name in ("head_map", "source_maps") and text.get_text().isdigit()]
    assert {text.get_fontsize() for text in texts if text not in in_cells} == {style.TEXT}
    assert all(5 < text.get_fontsize() <= style.TEXT for text in in_cells)


def test_on_a_screen_it_has_a_title_too(tmp_path):
    source, pictures = MINI / "measured_trade_off.json", []
    for name in drawn.STYLES:
        figure.main(["draw", "trade_off", str(source), "--style", name, "--out", str(tmp_path / name)])
        pictures.append((tmp_path / f"{name}.png").read_bytes())
    assert pictures[0] != pictures[1]
    figure.main(["draw", "trade_off", str(source), "--out", str(tmp_path / "again")])
    assert (tmp_path / "again.png").read_bytes() == pictures[0]


def test_roles_have_colours_of_their_own():
    roles = [style.WRONG, style.TRUE, style.ADHH, style.CONTROL, style.GREEDY]
    assert not {*roles} & {*style.FURTHER} and len({*roles}) == len(roles)
    labels = ["greedy", "VCD", "AD-HH", "random heads, mean of 5 runs", "PAI"]
    first, second = style.FURTHER[:2]
    assert style.colours_of(labels) == [style.GREEDY, first, style.ADHH, style.CONTROL, second]


def captions_of(*texts: str) -> list[dict]:
    return [{"image_id": number, **score_caption(text, {"dog", "cat"})} for number, text in enumerate(texts)]


def test_three_images_are_drawn_where_it_helps_and_one_where_it_harms():
    before = captions_of("a knife", "a dog", "a fork and a fork", "a cup", "a spoon and a knife", "a cat", "a cat")
    after = captions_of("a dog", "a knife", "a fork", "a dog", "a spoon", "a cup and a knife", "a dog")
    shown, title = choose(before, {entry["image_id"]: entry for entry in after}, "AD-HH")
    assert [entry["image_id"] for entry in shown] == [0, 3, 4, 1]
    assert title == "Hallucinated objects under AD-HH, 7 images: fewer in 3 (first 3), more in 2 (first 1)"
    same, title = choose(before[:3], {entry["image_id"]: entry for entry in before}, "AD-HH")
    assert [n_wrong(entry) for entry in same] == [1, 1] and title.endswith("as many in all (first 2)")


def test_repeats_are_marked():
    entry = captions_of("A dog, a knife, a puppy and a knife.")[0]
    kinds, text = kinds_of(entry), entry["caption"]
    marked = [(kind, letter) for kind, letter in zip(kinds, text, strict=True) if kind]
    words = {kind: "".join(letter for own, letter in marked if own == kind) for kind in caption_examples.KINDS}
    assert words == {"wrong": "knifeknife", "again": "puppy"}
