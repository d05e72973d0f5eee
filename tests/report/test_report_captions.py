"""What the report says of a folder at its top, and which captions it puts side by side, first and folded."""

import json
import re
import shutil
from pathlib import Path

import pytest

from llava_hh.report.about import find_about
from llava_hh.report.captions import find_sets
from llava_hh.report.folder import ResultFolder
from llava_hh.report.render import render_report
from llava_hh.report.tables import find_comparisons, find_uncompared
from tests.support.tiny_results import data_of, of_kind


@pytest.fixture
def results(tiny_results, tmp_path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(tiny_results, tmp_path / "results" / "tiny"))


def test_the_first_paragraph_names_the_model_its_images_and_the_paper(tiny_results):
    html = render_report(tiny_results)
    [text] = re.findall(r"</h1>\s*<p>(.*?)</p>", html, re.DOTALL)
    assert "What <strong>tiny</strong> says of 14 images of train2014 (seed 42, from " in text
    assert "6 images of val2014 (seed 42, from " in text and "AD-HH (" in text and "CHAIR_i is" in text
    assert '<a href="https://openreview.net/forum?id=Bjq4W7P2Us">Understanding and Mitigating' in text
    assert html.count("https://") == 1


def test_many_models_and_draws_are_counted(tiny_results, tmp_path):
    for number in range(5):
        settings = json.loads((tiny_results / "val2014" / "greedy" / "run.json").read_text())["settings"]
        settings["model"]["name"], settings["draw"]["seed"] = f"model {number}", number
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "run.json").write_text(json.dumps({"settings": settings}))
    about = find_about(ResultFolder(tmp_path))
    assert about["models"] == "model 0, model 1, model 2 and 2 other models"
    assert about["images"].startswith("6 images of val2014 (seed 0, from ")
    assert about["images"].endswith(") and 2 other draws of images")


def test_captions_alone_are_shown(tiny_results, tmp_path):
    """Files of captions and nothing else: on their own, and side by side without a comparison."""
    for kind in ("greedy", "adhh"):
        (tmp_path / "mine" / kind).mkdir(parents=True)
        source = of_kind(tiny_results / "val2014", kind) / "captions_eval_results.json"
        shutil.copy(source, tmp_path / "mine" / kind)
    one = render_report(tmp_path / "mine" / "adhh")
    (own,) = data_of(one)["sets"]
    assert [method["label"] for method in own["methods"]] == ["AD-HH"] and len(own["images"]) == 6
    assert "<details open>" in one and "says of" not in one
    results = ResultFolder(tmp_path / "mine")
    (table,) = find_uncompared(results, [])
    assert [row[0] for row in table["rows"]] == ["greedy", "AD-HH"] and "compare runs" in table["note"]
    metrics = json.loads((tmp_path / "mine/adhh/captions_eval_results.json").read_text())["overall_metrics"]
    two = render_report(tmp_path / "mine")
    assert f"<strong>{100 * metrics['CHAIRi']:.1f}%</strong>" in two
    (own,) = data_of(two)["sets"]
    assert [method["label"] for method in own["methods"]] == ["greedy", "AD-HH"]
    assert find_uncompared(ResultFolder(tiny_results), find_comparisons(ResultFolder(tiny_results))) == []


def test_captions_that_do_not_name_their_images_stand_beside_those_that_do(results):
    mine = results / "val2014" / "mine"
    mine.mkdir()
    content = json.loads((results / "val2014" / "greedy" / "captions_eval_results.json").read_text())
    sentences = [{**entry, "image": None, "caption": "A dog.", "mentions": []} for entry in content["sentences"]]
    text = json.dumps({"sentences": sentences, "overall_metrics": content["overall_metrics"]})
    (mine / "captions_eval_results.json").write_text(text)
    sets, _ = find_sets(ResultFolder(results), limit=100)
    (own,) = (own for own in sets if own["name"] == "val2014")
    assert [method["label"] for method in own["methods"]][-1] == "random heads, seed 42 (adhh)"
    assert "mine" in [method["label"] for method in own["methods"]]
    assert all(image["differs"] and image["key"] for image in own["images"])


def test_several_random_draws_are_folded_and_do_not_count_as_different(results):
    folder = results / "val2014"
    greedy = json.loads((folder / "greedy" / "captions_eval_results.json").read_text())
    of_adhh = of_kind(folder, "adhh") / "captions_eval_results.json"
    content = json.loads(of_adhh.read_text())
    for entry, plain in zip(content["sentences"], greedy["sentences"], strict=True):
        entry["caption"] = plain["caption"] + " And so on." * (entry["image_id"] == greedy["sentences"][3]["image_id"])
    of_adhh.write_text(json.dumps(content))
    drawn = of_kind(folder, "random")
    for name in ("random-seed=43", "random-seed=44"):
        content = json.loads((drawn / "captions_eval_results.json").read_text())
        for entry in content["sentences"]:
            entry["caption"] += f" {name}"
        (folder / name).mkdir()
        (folder / name / "captions_eval_results.json").write_text(json.dumps(content))
    sets, _ = find_sets(ResultFolder(results), limit=100)
    own = sets[0]
    assert own["name"] == "val2014"  # it differs, so it comes before train2014, which has maps and influences
    assert [method["folded"] for method in own["methods"]] == [False, False, True, True, True]
    assert [image["differs"] for image in own["images"]] == [True] + [False] * 5
    assert own["images"][0]["id"] == greedy["sentences"][3]["image_id"]


def test_a_picture_that_changed_since_it_was_captioned_is_left_out(results, tmp_path, capsys):
    greedy = results / "val2014" / "greedy"
    images, before = tmp_path / "images", json.loads((greedy / "run.json").read_text())["settings"]["image_folder"]
    shutil.copytree(before, images)
    for path in results.rglob("*.json"):
        path.write_text(path.read_text().replace(json.dumps(before), json.dumps(str(images))))
    ids = json.loads((greedy / "run.json").read_text())["image_ids"]
    rows = map(json.loads, (greedy / "captions.jsonl").read_text().splitlines())
    names = {row["image_id"]: row["image"] for row in rows}
    shutil.copy(images / names[ids[1]], images / names[ids[0]])
    found = ResultFolder(results)
    sets, files = find_sets(found, 100)
    [own] = [each for each in sets if each["name"].endswith("val2014")]
    shown = {image["id"]: image["key"] for image in own["images"]}
    assert shown[ids[0]] is None and shown[ids[1]] in files
    assert any(f"image {ids[0]}, " in line and "another file than was captioned" in line for line in found.left_out)
