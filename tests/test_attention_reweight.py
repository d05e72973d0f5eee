"""Figure 6 on a random model: every weight equals a direct run, the greedy run is shared, a rerun repeats nothing."""

import json
import shutil

import pytest

from llava_hh.data.coco import load_image_list
from llava_hh.data.images import load_image
from llava_hh.data.sample import sample_images
from llava_hh.decoding.method import generate_greedily
from llava_hh.heads import Head, random_heads
from llava_hh.interventions import ScaleAttention
from llava_hh.models.lvlm import DESCRIBE, load_lvlm
from llava_hh.scripts import analyze_attention_reweight

HEADS = [[3, 1], [0, 2], [2, 2]]


@pytest.fixture(scope="module")
def done(tiny_checkpoint, tiny_coco, tmp_path_factory):
    """The flags without span and weights, and the folder in which both spans were run."""
    out = tmp_path_factory.mktemp("reweight")
    (out / "heads.json").write_text(json.dumps({"hal_heads": HEADS}))
    flags = ["--model", str(tiny_checkpoint), "--image-folder", str(tiny_coco / "val2014"), "--limit", "6"]
    flags += ["--annotations", str(tiny_coco / "annotations"), "--heads", str(out / "heads.json"), "--top-k", "3"]
    flags += ["--max-new-tokens", "8", "--batch-size", "3", "--random-draws", "2", "--out", str(out)]
    analyze_attention_reweight.main([*flags, "--span", "after_image", "--alphas", "1", "0.5", "0", "--paper-values"])
    analyze_attention_reweight.main([*flags, "--span", "image", "--alphas", "1", "3"])
    return flags, out


def captions(folder, alpha=None) -> list[list[int]]:
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    return [row["token_ids"] for row in rows if row.get("alpha") == alpha]


def test_each_weight_is_a_run_with_scaled_attention(done, tiny_checkpoint, tiny_coco):
    _, out = done
    lvlm = load_lvlm(tiny_checkpoint)
    samples = sample_images(load_image_list(tiny_coco / "annotations" / "captions_val2014.json"), 6, 42)
    images = [load_image(tiny_coco / "val2014" / sample["file_name"]) for sample in samples]
    control = random_heads(4, 4, 3, 43, exclude=[Head(*head) for head in HEADS])
    runs = {
        ("greedy", None): [],
        ("after_image_top_3_0.5_0.0", 0.5): [ScaleAttention(HEADS, 0.5)],
        ("after_image_random_3_of_43_0.5_0.0", 0): [ScaleAttention(control, 0)],
        ("image_top_3_3.0", 3): [ScaleAttention(HEADS, 3, "image")],
    }
    for (name, alpha), edits in runs.items():
        expected = [
            answer.token_ids
            for image in images
            for answer in generate_greedily(lvlm, lvlm.encode([image], [DESCRIBE]), 8, edits)
        ]
        assert captions(out / name, alpha) == expected, name
    assert captions(out / "greedy") != captions(out / "after_image_top_3_0.5_0.0", 0.5)


def test_result_and_figure(done):
    _, out = done
    result = json.loads((out / "attention_reweight_after_image.json").read_text())
    greedy = json.loads((out / "greedy" / "captions_eval_results.json").read_text())["overall_metrics"]
    assert result["hal_heads"][0]["CHAIRi"] == pytest.approx(greedy["CHAIRi"], abs=1e-5)
    assert [point["CHAIRi"] for point in result["random_heads"][0]["draws"]] == [result["hal_heads"][0]["CHAIRi"]] * 2
    assert result["minus_greedy"].keys() == {"0.5", "0"}
    assert len(result["random_heads"]) == 3
    assert result["paper"]["hal_heads"][-1] == 0.084
    assert "paper" not in json.loads((out / "attention_reweight_image.json").read_text())
    for span in ("after_image", "image"):
        assert (out / f"attention_reweight_{span}.png").stat().st_size > 1000
    runs = {path.name for path in out.iterdir() if path.is_dir()}
    groups = ("top_3", "random_3_of_42", "random_3_of_43")
    swept = {f"after_image_{group}_0.5_0.0" for group in groups} | {f"image_{group}_3.0" for group in groups}
    assert runs == {"greedy", *swept}  # no run of weight 1 but greedy


def test_a_rerun_captions_nothing(done, monkeypatch):
    flags, _ = done

    def refuse(*_, **__):
        raise AssertionError("a finished weight ran again")

    monkeypatch.setattr("llava_hh.generation.generate_greedily", refuse)
    analyze_attention_reweight.main([*flags, "--span", "image", "--alphas", "1", "3"])


def test_a_weight_added_later_leaves_the_finished_ones(done):
    flags, out = done
    before = (out / "image_top_3_3.0" / "run.json").stat().st_mtime_ns
    files = [(path, path.stat().st_mtime_ns) for path in out.glob("image_*_3.0/blocks/*.json")]
    analyze_attention_reweight.main([*flags, "--span", "image", "--alphas", "2", "1", "3"])
    assert files and all(path.stat().st_mtime_ns == when for path, when in files)
    assert (out / "image_top_3_2.0").exists()
    assert (out / "image_top_3_3.0" / "run.json").stat().st_mtime_ns > before
    result = json.loads((out / "attention_reweight_image.json").read_text())
    assert [len(result[name]) for name in ("alphas", "hal_heads", "random_heads")] == [3, 3, 3]
    shutil.rmtree(out / "image_top_3_2.0")


def test_the_family_of_tests_is_that_of_the_weights_asked_for(done, tmp_path):
    """Holm's correction is not over what else lies in the folder."""
    flags = [*done[0], "--span", "image", "--random-draws", "0", "--out"]
    analyze_attention_reweight.main([*flags, str(tmp_path / "both"), "--alphas", "1", "2", "3"])
    analyze_attention_reweight.main([*flags, str(tmp_path / "both"), "--alphas", "1", "3"])
    analyze_attention_reweight.main([*flags, str(tmp_path / "one"), "--alphas", "1", "3"])
    again, alone = (
        json.loads((tmp_path / name / "attention_reweight_image.json").read_text()) for name in ("both", "one")
    )
    assert again["minus_greedy"] == alone["minus_greedy"] and list(alone["minus_greedy"]) == ["3"]


@pytest.mark.parametrize(
    ("alphas", "message"),
    [
        (["1", "0.5", "-1"], "--alphas: '-1': expected a number of at least 0"),
        (["1", "inf"], "--alphas: 'inf': expected a number of at least 0"),
        (["0.5", "0"], "--alphas 0.5 0: expected 1 among them, each once"),
        (["1", "1"], "--alphas 1 1: expected 1 among them, each once"),
    ],
)
def test_wrong_weights_are_one_line_before_any_work(alphas, message, done, tmp_path, capsys):
    flags, _ = done
    with pytest.raises(SystemExit) as stopped:
        analyze_attention_reweight.main(
            [*flags, "--span", "image", "--alphas", *alphas, "--out", str(tmp_path / "out")]
        )
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_random_draws(done, tmp_path):
    flags, _ = done
    flags = [*flags, "--span", "image", "--alphas", "1", "2", "--random-draws", "0", "--out", str(tmp_path)]
    analyze_attention_reweight.main(flags)
    assert json.loads((tmp_path / "attention_reweight_image.json").read_text())["random_heads"] == []
