"""The report without a browser: what it finds, leaves out and refuses; numbers, packing, sizes, the index."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava_hh.report import render
from llava_hh.report.folder import ResultFolder
from llava_hh.report.heads import find_heads
from llava_hh.report.images import EDGES, shrink_images
from llava_hh.report.render import render_report
from llava_hh.report.tables import find_comparisons, headline
from tests.support.tiny_results import data_of, of_kind
from tests.support.verbs import report_html


@pytest.fixture
def draws(results) -> Path:
    """Folders of an earlier version and of two draws, each with another number of captions."""
    for n_captions, draw in ((1, ""), (2, "-400-seed42"), (3, "-60-seed7")):
        if draw:
            for split in ("train2014", "val2014"):
                shutil.copytree(results / split, results / f"{split}{draw}")
        heads = results / f"train2014{draw}" / "identify_attention_head" / "attribution_result.json"
        heads.write_text(json.dumps({**json.loads(heads.read_text()), "n_captions": n_captions}))
        summary = results / f"val2014{draw}" / "summary.json"
        content = json.loads(summary.read_text())
        content["methods"][of_kind(summary.parent, "adhh").name]["n"] = n_captions
        summary.write_text(json.dumps(content))
    return results


@pytest.mark.parametrize(
    ("first", "shown", "n", "n_maps"),
    [((), "-400-seed42", 2, 2), (["-60-seed7"], "-60-seed7", 3, 3), ([""], ", of an earlier version", 1, 3)],
)
def test_heads_and_the_numbers_on_top_are_of_one_draw_and_name_it(first, shown, n, n_maps, draws):
    for other in ("", "-60-seed7"):
        path = draws / f"train2014{other}" / "attention_inheritance" / "attention_inheritance.json"
        path.parent.mkdir()
        path.write_text(json.dumps({"similarity": [[0.5] * 4] * 4}))
    parts = [draws / f"{split}{draw}" for split in ("train2014", "val2014") for draw in first]
    results = ResultFolder(draws, parts)
    heads, (number, *_) = find_heads(results), headline(find_comparisons(results))
    assert (heads["draw"], number["draw"]) == (f"train2014{shown}", f"val2014{shown}")
    assert heads["words"].endswith(f"in {n} captions") and number["n"] == n
    assert len(heads["more"]) == n_maps
    assert {own["source"].split("/")[0] for own in heads["more"]} == {heads["source"].split("/")[0]}


def test_the_page_names_the_draw_of_everything(draws):
    report_html([str(draws), "--first", str(draws / "train2014-60-seed7"), str(draws / "val2014-60-seed7")])
    html = (draws / "report.html").read_text()
    assert "<h2>Heads (train2014-60-seed7)</h2>" in html
    assert "<p>CHAIR_i with heads switched off (AD-HH), val2014-60-seed7</p>" in html
    for draw in ("val2014-400-seed42", "val2014-60-seed7", "val2014, of an earlier version"):
        assert f'<h3>{draw}: <a class="source"' in html
    assert "<h3>Module level (train2014, of an earlier version)</h3>" in html


def test_every_number_has_a_file(tiny_results, capsys):
    report_html([str(tiny_results)])
    assert capsys.readouterr().out.split() == [
        str(tiny_results / "report.html"),
        str(tiny_results.parent.resolve() / "index.html"),
    ]
    html = (tiny_results / "report.html").read_text()
    data = data_of(html)
    named = re.findall(r'<a class="source" href="([^"]*)"', html)
    named += [data["heads"]["source"], *(own["source"] for own in data["heads"]["more"])]
    for method in (method for own in data["sets"] for method in own["methods"]):
        named += [method["source"], *(method[kind]["source"] for kind in ("influence", "maps") if method[kind])]
    assert {name for name in named if not (tiny_results / name).is_file()} == set()
    for name in ("val2014/summary.json", "train2014/module_influence/module_influence.json"):
        assert name in named
    assert f"val2014/{of_kind(tiny_results / 'val2014', 'adhh').name}/run.json" in named


def test_head_numbers_and_the_headline_are_the_files(tiny_results):
    content = json.loads((tiny_results / "train2014/identify_attention_head/attribution_result.json").read_text())
    html = render_report(tiny_results)
    heads = data_of(html)["heads"]
    assert np.allclose(heads["scores"], content["contrastive_influence"], rtol=1e-5)
    assert np.allclose(heads["low"], content["interval"]["contrastive_influence"][0], rtol=1e-5)
    assert heads["hal"] == content["hal_heads"]
    methods = json.loads((tiny_results / "val2014" / "summary.json").read_text())["methods"]
    adhh = methods[of_kind(tiny_results / "val2014", "adhh").name]
    low, high = (100 * end for end in adhh["interval"]["CHAIRi"])
    assert f"{100 * methods['greedy']['CHAIRi']:.1f}%" in html
    assert f"<strong>{100 * adhh['CHAIRi']:.1f}%</strong>" in html
    assert f"{low:.1f} to {high:.1f}, n = 6" in html
    assert f"<td>{100 * methods['greedy']['recall']:.1f} (" in html


def test_a_part_of_a_folder_shows_that_part(tiny_results, results, monkeypatch):
    html = render_report(results / "val2014")
    assert 'id="captions"' in html and 'id="methods"' in html
    assert 'id="heads"' not in html and html.count("<figure>") == 1
    (own,) = data_of(html)["sets"]
    assert own["name"] == "val2014"
    assert [method["label"] for method in own["methods"]] == ["greedy", "AD-HH", "random heads, seed 42 (adhh)"]
    html = render_report(results / "train2014" / "identify_attention_head")
    assert 'id="heads"' in html and 'id="captions"' not in html
    shutil.move(results / "val2014" / "summary.json", results.parent / "elsewhere.json")
    assert "elsewhere.json" not in render_report(results)
    assert 'href="../elsewhere.json"' in render_report(results, [results.parent / "elsewhere.json"])


def test_images_that_are_gone_are_left_out(results):
    for path in results.rglob("captions_eval_results.json"):
        content = json.loads(path.read_text())
        content["run"]["image_folder"] = "/nowhere"
        path.write_text(json.dumps(content))
    data = data_of(render_report(results))
    assert data["pictures"] == {} and len(data["sets"]) == 2


def test_wrong_input_is_one_line(results, capsys):
    def said(*flags: object) -> str:
        with pytest.raises(SystemExit) as stopped:
            report_html([*map(str, flags)])
        assert stopped.value.code == 2
        return capsys.readouterr().err

    assert "nowhere: no such folder" in said(results / "nowhere")
    (results / "empty").mkdir()
    assert "no captions, comparisons or attribution there" in said(results / "empty")
    assert "argument --limit: '0': expected a whole number of at least 1" in said(results, "--limit", 0)
    (results / "val2014" / "summary.json").write_text('{"settings": {}, "methods": {"greedy": {}}}')
    asked = results / "val2014" / "summary.json"
    assert f"{asked}: not the form of such a result file" in said(results, "--summary", asked)


def test_images_shrink_until_they_fit(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (300, 500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    (tmp_path / "broken.jpg").write_text("no image")
    paths = {"noise": tmp_path / "noise.png", "broken": tmp_path / "broken.jpg", "gone": tmp_path / "gone.jpg"}
    whole = shrink_images(paths, 10**6)
    assert whole.keys() == {"noise"}
    less = shrink_images(paths, len(whole["noise"]) - 1)
    assert len(less["noise"]) < len(whole["noise"])
    with pytest.raises(
        ValueError, match=f"1 images take .* at {EDGES[-1]} pixels, 100 are left; use a smaller --limit"
    ):
        shrink_images(paths, 100)


def test_the_index_lists_all_runs_and_reports(results):
    report_html([str(results)])
    report_html([str(results / "val2014")])
    html = (results.parent / "index.html").read_text()
    runs = {path.relative_to(results.parent).as_posix() for path in results.rglob("run.json")}
    assert len(runs) == 7
    assert set(re.findall(r'class="source" href="([^"]*run.json)"', html)) == runs
    assert 'href="tiny/report.html"' in html and 'href="tiny/val2014/report.html"' in html
    assert 'href="tiny/val2014/summary.json"' in html


def test_linked_folders_are_read_and_their_index_renewed(results, tmp_path):
    """A link may lead back to where it lies."""
    elsewhere = Path(shutil.move(results / "train2014", tmp_path / "elsewhere"))
    (results / "train2014").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(results)
    assert data_of(render_report(results))["heads"]["source"].startswith("train2014/identify_attention_head/")
    whole = Path(shutil.move(results, tmp_path / "whole"))
    results.symlink_to(whole)
    report_html([str(results)])
    assert 'href="tiny/report.html"' in (results.parent / "index.html").read_text()


SPOILT = {
    "val2014/summary.json": "{",
    "val2014/greedy/run.json": '{"settings": 3}',
    "train2014/module_influence/module_influence.json": '{"run": {}}',
    "train2014/identify_attention_head/attribution_result.json": "[]",
    "train2014/influence_by_source/ablations.safetensors": "no tensors",
    "train2014/word_maps/word_maps.safetensors": "",
    "train2014/captions_eval_results.json": '{"sentences": [{}]}',
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_damaged_file_leaves_out_its_part_alone_and_is_named(name, results, capsys):
    (results / name).write_text(SPOILT[name])
    report_html([str(results)])
    assert f"warning: left out: {results / name}: " in capsys.readouterr().err
    page = (results / "report.html").read_text()
    assert str(results / name) in page and len(data_of(page)["sets"]) >= 1


def test_numbers_that_are_not_finite_are_told(results):
    path = results / "val2014/summary.json"
    content = json.loads(path.read_text())
    content["methods"]["greedy"]["CHAIRi"] = float("nan")
    path.write_text(json.dumps(content))
    path = results / "train2014/identify_attention_head/attribution_result.json"
    content = json.loads(path.read_text())
    content["contrastive_influence"][1][0] = float("inf")
    path.write_text(json.dumps(content))
    page = render_report(results)
    assert "<td>not finite" in page and ">nan" not in page
    assert data_of(page)["heads"]["scores"][1][0] == "not finite"


def test_links_are_quoted(results):
    odd = results / "a b#c?d%e:f"
    (results / "val2014").rename(odd)
    page = render_report(results)
    assert 'href="a%20b%23c%3Fd%25e%3Af/summary.json"' in page


def test_names_of_another_encoding_are_shown_and_linked(results):
    (results / "val2014").rename(results / os.fsdecode(b"caf\xe9"))
    page = render_report(results)
    assert page.encode() and "caf\\udce9/summary.json</a>" in page and 'href="caf%E9/summary.json"' in page


def test_names_of_methods_stay_where_numbers_are_not_finite(results):
    path = results / "val2014/summary.json"
    content = json.loads(path.read_text())
    content["methods"]["greedy"] |= {"label": "greedy, inf budget (nan-safe)", "recall": float("nan")}
    path.write_text(json.dumps(content))
    page = render_report(results)
    assert "greedy, inf budget (nan-safe)" in page and "<td>not finite" in page


def test_a_figure_that_is_too_large_is_named(results, monkeypatch):
    monkeypatch.setattr(render, "LARGEST_PAGE", 20_000)
    with pytest.raises(ValueError, match=r"the figure of .*\.json takes [\d,]+ bytes of the page's 20,000; draw it"):
        render_report(results)
