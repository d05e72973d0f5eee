"""Influences in the report: packed numbers, of which attribution they are, and what was not measured."""

import base64
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llava_hh.attribution.sources import MEASURED_SOURCES
from llava_hh.files.files import sha256
from llava_hh.report.captions import find_sets
from llava_hh.report.folder import ResultFolder
from llava_hh.report.heads import find_heads
from llava_hh.report.words import LARGEST, NOT_MEASURED, WordInfluences, pack
from tests.support.tiny_results import data_of
from tests.support.verbs import report_html


def unpacked(largest: float, text: str) -> np.ndarray:
    codes = np.frombuffer(base64.b64decode(text), "<i2").astype(np.float64)
    return np.where(codes == NOT_MEASURED, np.nan, codes / LARGEST * largest)


def test_packing_keeps_four_digits_and_what_was_not_measured():
    values = np.array([[0.5, -0.25, np.nan], [0.0, -0.5, 0.1234567]])
    back = unpacked(*pack(values)).reshape(2, 3)
    assert np.isnan(back[0, 2])
    assert np.allclose(back, values, atol=0.5 / LARGEST, equal_nan=True)
    assert (unpacked(*pack(np.zeros(3))) == 0).all()
    assert np.isnan(unpacked(*pack(np.full(2, np.nan)))).all()


def test_influences_are_those_of_the_attribution(tiny_results):
    """Every word of every caption of the attribution, against its tables; none for other captions."""
    folder = tiny_results / "train2014"
    rows = [json.loads(line) for line in (folder / "identify_attention_head/targets.jsonl").read_text().splitlines()]
    log_probs = load_file(folder / "identify_attention_head" / "ablations.safetensors")
    sets, _ = find_sets(ResultFolder(tiny_results), limit=100)
    train = next(own for own in sets if own["name"] == "train2014")
    assert len(train["images"]) == 14
    with_influence = 0
    by_source = load_file(folder / "influence_by_source" / "ablations.safetensors")
    assert [train["methods"][0]["influence"][name] for name in ("source", "reads")] == [
        "train2014/influence_by_source/ablations.safetensors",
        ["the image", "the text after it", "the answer so far", "itself and what stands before the image"],
    ]
    for image in train["images"]:
        (caption,) = image["captions"]
        places = [place for place, row in enumerate(rows) if row["image_id"] == image["id"]]
        if not places:
            assert caption["influence"] is None
            continue
        with_influence += 1
        assert [rows[place]["word"] for place in places] == [mention[0] for mention in caption["mentions"]]
        for place, (probability, *packed) in zip(places, caption["influence"], strict=True):
            ablated = [log_probs["heads"], *(by_source[f"without_{name}"] for name in MEASURED_SOURCES)]
            for number, own in enumerate(ablated):
                expected = np.exp(log_probs["clean"][place]) - np.exp(own[place])
                values = unpacked(*packed[2 * number : 2 * number + 2])
                assert np.allclose(values, expected.ravel(), atol=np.abs(expected).max() / LARGEST + 1e-7)
            assert probability == pytest.approx(np.exp(log_probs["clean"][place]), rel=1e-5)
    assert with_influence == 6
    assert [image["captions"][0]["maps"] is not None for image in train["images"]] == [True] * 3 + [False] * 11


def test_of_several_attributions_the_widest_is_shown(results):
    """Not those of a shortlist, of another ablation, of labelled words, or of fewer captions."""
    train = results / "train2014"
    source = train / "influence_by_source" / "attribution_result.json"
    content = json.loads(source.read_text())
    for name, change in {
        "a": {"shortlist": {"kind": "screen"}},
        "b": {"ablation": "mean"},
        "c": {"settings": {**content["settings"], "labels": ["wrong", "right"]}, "n_captions": 50},
        "d": {"n_captions": 3},
    }.items():
        shutil.copytree(source.parent, train / name)
        (train / name / source.name).write_text(json.dumps(content | change))
    assert WordInfluences.beside(train / "captions_eval_results.json", ResultFolder(results)).path == source.with_name(
        "ablations.safetensors"
    )
    (train / "identify_attention_head" / source.name).unlink()
    source.unlink()
    folder = ResultFolder(results)
    shown = WordInfluences.beside(train / "captions_eval_results.json", folder)
    assert shown.path.parent.name == "d"
    for name in ("a", "d"):
        (train / name / source.name).unlink()
    about = WordInfluences.beside(train / "captions_eval_results.json", folder).about(folder)
    assert about["unit"] == "drop of p(word) (mean ablation)"


@pytest.mark.parametrize(
    ("name", "text"),
    [("attribution_result.json", "{"), ("attribution_result.json", '{"n_captions": "many"}'), ("targets.jsonl", "")],
)
def test_beside_a_damaged_attribution_another_is_shown(name, text, results, capsys):
    damaged = results / "train2014" / "influence_by_source" / name
    damaged.write_text(text)
    report_html([str(results)])
    assert f"warning: left out: {damaged}: " in capsys.readouterr().err
    page = data_of((results / "report.html").read_text())
    train = next(own for own in page["sets"] if own["name"] == "train2014")
    assert train["methods"][0]["influence"]["source"] == "train2014/identify_attention_head/ablations.safetensors"
    assert sum(image["captions"][0]["influence"] is not None for image in train["images"]) == 6


def test_measurements_of_other_words_are_not_shown(results):
    """A caption that was scored anew after its attribution and its maps."""
    path = results / "train2014" / "captions_eval_results.json"
    content = json.loads(path.read_text())
    recorded = json.loads((results / "train2014" / "word_maps" / "word_maps.json").read_text())
    changed = recorded["captions"][0]["image_id"]
    next(own for own in content["sentences"] if own["image_id"] == changed)["mentions"].pop()
    path.write_text(json.dumps(content))
    sets, _ = find_sets(ResultFolder(results), limit=100)
    images = next(own for own in sets if own["name"] == "train2014")["images"]
    for image in images[:3]:
        (caption,) = image["captions"]
        shown = image["id"] != changed
        assert (caption["maps"] is not None, caption["influence"] is not None) == (shown, shown)


def test_heads_not_measured_stay_empty(results):
    folder = results / "train2014" / "identify_attention_head"
    shutil.rmtree(folder.with_name("influence_by_source"))
    log_probs = load_file(folder / "ablations.safetensors")
    log_probs["heads"][:, 1, 2] = np.nan
    save_file(log_probs, folder / "ablations.safetensors")
    content = json.loads((folder / "attribution_result.json").read_text())
    content["sha256"]["ablations.safetensors"] = sha256(folder / "ablations.safetensors")
    for scores in (content["contrastive_influence"], *content["interval"]["contrastive_influence"]):
        scores[1][2] = None
    (folder / "attribution_result.json").write_text(json.dumps(content))
    assert find_heads(ResultFolder(results))["scores"][1][2] is None
    sets, _ = find_sets(ResultFolder(results), limit=100)
    image = next(own for own in sets if own["name"] == "train2014")["images"][0]
    missing = np.isnan(unpacked(*image["captions"][0]["influence"][0][1:3]).reshape(4, 4))
    assert np.argwhere(missing).tolist() == [[1, 2]]
