"""The module level and the page of figures, from small files written here."""

import json
from pathlib import Path

import pytest

from llava_hh.figures import findings
from llava_hh.scripts import figure
from tests.support.repository import ROOT
from tests.support.verbs import report_figures

MODULES = {
    "mha": {
        "contrastive_influence": [0.1, -0.02, 0.3],
        "interval": {"contrastive_influence": [[0.05, -0.1, -0.01], [0.2, 0.0, 0.4]]},
        "influence_hallucinated": [0.2, 0.1, 0.3],
        "influence_true": [0.1, 0.12, 0.0],
    },
    "mlp": {
        "contrastive_influence": [-0.1, 0.02, 0.0],
        "interval": {"contrastive_influence": [[-0.2, 0.01, -0.1], [0.0, 0.03, 0.1]]},
        "influence_hallucinated": [0.0, 0.1, 0.3],
        "influence_true": [0.1, 0.08, 0.3],
    },
}
COUNTS = {"n_hallucinated_words": 5, "n_true_words": 9, "n_captions": 4}


def mean(value: float, low: float, high: float) -> dict:
    return {"mean": value, "interval": {"mean": [low, high]}}


def write_attribution(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "attribution_result.json"
    path.write_text(json.dumps({"modules": MODULES, "read_out": "probability", "ablation": "zero", **COUNTS}))
    return path


def test_module_level(tmp_path, capsys):
    out = tmp_path / "train2014" / "module_influence"
    figure.main(["modules", "--attribution", str(write_attribution(tmp_path)), "--out", str(out)])
    result = json.loads((out / "module_influence.json").read_text())
    expected = {"largest": 0.3, "largest_layer": 2, "n_layers_above_0": 1, "n_layers": 3}
    assert result["modules"]["mha"] == {"sum": pytest.approx(0.38), **expected}
    assert result["modules"]["mlp"]["sum"] == pytest.approx(-0.08)
    assert (out / "module_influence.png").stat().st_size > 1000
    assert "mha: sum +0.380, largest +0.300 in layer 2, 1 of 3 layers above 0" in capsys.readouterr().out
    sentence = "attention +0.380 (1 of 3 layers above 0), MLP -0.080 (1 of 3 layers above 0)."
    assert findings.module_influence(result).endswith(sentence)


def test_an_attribution_without_modules_is_one_line(tmp_path, capsys):
    path = tmp_path / "old.json"
    path.write_text("{}")
    with pytest.raises(SystemExit) as stopped:
        figure.main(["modules", "--attribution", str(path), "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert f"--attribution {path}: no `modules`" in capsys.readouterr().err


def test_sentences_follow_the_numbers():
    bias = {
        "n_words": 10,
        "n_captions": 3,
        "groups": {
            "hal_heads": {"all": {"after_image_mass": mean(0.5, 0.45, 0.55), "image_mass": mean(0.1, 0.05, 0.15)}},
            "non_hal_heads": {"all": {"after_image_mass": mean(0.3, 0.28, 0.32), "image_mass": mean(0.12, 0.1, 0.2)}},
        },
    }
    said = findings.attention_bias(bias)
    assert "0.500 (0.450 to 0.550), more than (intervals apart) non-hallucination heads, 0.300" in said
    assert "0.100 (0.050 to 0.150), less than (intervals overlap) those, 0.120" in said
    groups = {
        "hal_heads": mean(0.8, 0.7, 0.9),
        "non_hal_heads": mean(0.8, 0.7, 0.9),
        "other_heads": mean(0.5, 0.4, 0.6),
    }
    inherited = {"n_captions": 3, "groups": groups}
    assert "as much as (intervals overlap)" in findings.attention_inheritance(inherited)
    inherited["difference_same_layers"] = mean(0.2, 0.1, 0.3)
    expected = "other heads: 0.500 (0.400 to 0.600); minus other heads of their own layers: +0.200 (+0.100 to +0.300)."
    assert findings.attention_inheritance(inherited).endswith(expected)
    step = {"step": 120, "hal_heads": mean(0.1, 0.05, 0.15), "non_hal_heads": mean(0.2, 0.18, 0.3)}
    said = findings.js_divergence({"n": 3, "steps": [{}, {**step, "percentiles": {"50": 0.04}}]})
    assert "At step 120" in said
    assert "0.100 (0.050 to 0.150) nats, less than (intervals apart) non-hallucination heads" in said


def test_reweighting_tells_of_the_farthest_weight():
    def point(chair_i: float, recall: float) -> dict:
        return {"CHAIRi": chair_i, "recall": recall, "interval": {"CHAIRi": [chair_i - 0.01, chair_i + 0.01]}}

    result = {"span": "after_image", "alphas": [1.0, 0.5, 0.0], "n": 40, "settings": {"top_k": 5}}
    result["hal_heads"] = [point(0.12, 0.9), point(0.05, 0.8), point(0.07, 0.5)]
    result["random_heads"] = [point(0.12, 0.9), point(0.11, 0.89), point(0.1, 0.8)]
    said = findings.attention_reweight(result)
    assert "untouched: CHAIR_i 12.0% (11.0% to 13.0%), recall 90.0%." in said
    assert "top 5 heads times 0: CHAIR_i 7.0% (6.0% to 8.0%), recall 50.0%;" in said
    assert said.endswith("of as many random heads: CHAIR_i 10.0% (9.0% to 11.0%), recall 80.0%.")


def test_a_result_of_another_form_is_one_line(tmp_path, capsys):
    path = tmp_path / "train2014" / "attention_bias" / "attention_bias.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(SystemExit) as stopped:
        report_figures([str(tmp_path)])
    assert stopped.value.code == 2
    assert f"{path}: not the form of this figure" in capsys.readouterr().err


@pytest.mark.parametrize(("content", "schema"), [({"run": {}}, 1), ({"run": {}, "schema_version": 3}, 3)])
def test_a_result_of_another_version_is_one_line(tmp_path, capsys, content, schema):
    path = tmp_path / "train2014" / "attention_bias" / "attention_bias.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    with pytest.raises(SystemExit) as stopped:
        report_figures([str(tmp_path)])
    assert stopped.value.code == 2
    line = f"{path}: another version of this package wrote it (schema {schema}, not 2); give the command that made it"
    assert line in capsys.readouterr().err


def test_page_shows_what_is_there_and_names_what_is_not(tmp_path):
    for draw in ("train2014-3000-seed42", "train2014-60-seed7"):
        out = tmp_path / draw / "module_influence"
        figure.main(["modules", "--attribution", str(write_attribution(tmp_path)), "--out", str(out)])
    report_figures([str(tmp_path)])
    page = (tmp_path / "figures.md").read_text()
    for draw in ("train2014-3000-seed42", "train2014-60-seed7"):
        assert f"![Module level]({draw}/module_influence/module_influence.png)" in page
        assert f"Numbers: [{draw}/module_influence/module_influence.json]" in page
    assert page.count("Not made yet: `sh bash_scripts/analysis/") == 5
    for finding in findings.FIGURES:
        assert (ROOT / finding.command.removeprefix("sh ")).is_file()
