"""Figure 6 on a random model: every factor equals a direct run, greedy decoding is shared, a rerun repeats nothing."""

import json

import pytest

from llava_hh.attention.interventions import ScaleAttention
from llava_hh.data.coco import load_image_list
from llava_hh.data.sample import sample_images
from llava_hh.decoding.method import generate_greedily
from llava_hh.files.images import load_image
from llava_hh.heads import Head, random_heads
from llava_hh.models.lvlm import DESCRIBE, load_lvlm
from llava_hh.scripts import evaluate, figure

HEADS = [[3, 1], [0, 2], [2, 2]]


def scaled(span: str, alphas: tuple, draws: int = 2) -> list[str]:
    methods = [f"scale:span={span},alpha={alpha},top_k=3" for alpha in alphas]
    return [*methods, *(f'random:draws={draws},of="{method}"' for method in methods if draws)]


@pytest.fixture(scope="module")
def done(tiny_checkpoint, tiny_coco, tmp_path_factory):
    """The flags without methods, and the folder in which factors of both spans were run."""
    out = tmp_path_factory.mktemp("reweight")
    (out / "heads.json").write_text(json.dumps({"hal_heads": HEADS}))
    flags = ["--model", str(tiny_checkpoint), "--image-folder", str(tiny_coco / "val2014"), "--limit", "6"]
    flags += ["--annotations", str(tiny_coco / "annotations"), "--heads", str(out / "heads.json")]
    flags += ["--max-new-tokens", "8", "--batch-size", "3", "--out", str(out)]
    for span, alphas in (("after_image", (0.5, 0)), ("image", (3,))):
        summary = out / f"summary_{span}.json"
        evaluate.main([*flags, "--summary", str(summary), "--methods", *scaled(span, alphas)])
        paper = ["--paper-values"] * (span == "after_image")
        figure.main(["factors", "--summary", str(summary), "--span", span, "--out", str(out), *paper])
    return flags, out


def captions(out, pattern: str) -> list[list[int]]:
    (folder,) = out.glob(pattern)
    return [json.loads(line)["token_ids"] for line in (folder / "captions.jsonl").read_text().splitlines()]


def test_each_factor_is_a_run_with_scaled_attention(done, tiny_checkpoint, tiny_coco):
    _, out = done
    lvlm = load_lvlm(tiny_checkpoint)
    samples = sample_images(load_image_list(tiny_coco / "annotations" / "captions_val2014.json"), 6, 42)
    images = [load_image(tiny_coco / "val2014" / sample["file_name"]) for sample in samples]
    control = random_heads(4, 4, 3, 43, exclude=[Head(*head) for head in HEADS])
    runs = {
        "greedy": [],
        "scale-top_k=3-alpha=0.5-*": [ScaleAttention(HEADS, 0.5)],
        "random-seed=43-scale-top_k=3-alpha=0-span=after_image-*": [ScaleAttention(control, 0)],
        "scale-top_k=3-alpha=3-span=image-*": [ScaleAttention(HEADS, 3, "image")],
    }
    for pattern, edits in runs.items():
        expected = [
            answer.token_ids
            for image in images
            for answer in generate_greedily(lvlm, lvlm.encode([image], [DESCRIBE]), 8, edits)
        ]
        assert captions(out, pattern) == expected, pattern
    assert captions(out, "greedy") != captions(out, "scale-top_k=3-alpha=0.5-*")


def test_result_and_figure(done):
    _, out = done
    result = json.loads((out / "attention_reweight_after_image.json").read_text())
    greedy = json.loads((out / "greedy" / "captions_eval_results.json").read_text())["overall_metrics"]
    assert result["alphas"] == [1, 0.5, 0] and result["settings"]["top_k"] == 3
    assert result["hal_heads"][0]["CHAIRi"] == pytest.approx(greedy["CHAIRi"], abs=1e-5)
    assert [point["CHAIRi"] for point in result["random_heads"][0]["draws"]] == [result["hal_heads"][0]["CHAIRi"]] * 2
    assert result["minus_greedy"].keys() == {"0.5", "0"}
    assert len(result["random_heads"]) == 3
    assert result["paper"]["hal_heads"][-1] == 0.084
    assert "paper" not in json.loads((out / "attention_reweight_image.json").read_text())
    for span in ("after_image", "image"):
        assert (out / f"attention_reweight_{span}.png").stat().st_size > 1000
    runs = sorted(path.name for path in out.iterdir() if path.is_dir())
    assert len(runs) == 1 + 3 * 3 and sum(name.startswith("random-seed=") for name in runs) == 6


def test_points_are_those_of_the_runs(done):
    _, out = done
    summary = json.loads((out / "summary_after_image.json").read_text())["methods"]
    result = json.loads((out / "attention_reweight_after_image.json").read_text())
    for index, alpha in enumerate(result["alphas"][1:], 1):
        (name,) = (each for each in summary if each.startswith(f"scale-top_k=3-alpha={alpha:g}-"))
        assert summary[name].items() >= result["hal_heads"][index].items()
        assert summary[name]["minus_greedy"] == result["minus_greedy"][f"{alpha:g}"]
        group = next(entry for key, entry in summary.items() if f"alpha={alpha:g}," in key)
        assert result["random_heads"][index]["draws"] == group["draws"]


def test_a_factor_added_later_leaves_the_finished_ones(done, monkeypatch):
    """And a rerun captions nothing."""
    flags, out = done
    files = {path: path.stat().st_mtime_ns for path in out.glob("*/blocks/*.json")}
    evaluate.main([*flags, "--summary", str(out / "more.json"), "--methods", *scaled("image", (2, 3))])
    assert files and all(path.stat().st_mtime_ns == when for path, when in files.items())
    assert captions(out, "scale-top_k=3-alpha=2-span=image-*")

    def refuse(*_, **__):
        raise AssertionError("a finished factor ran again")

    monkeypatch.setattr("llava_hh.decoding.generation.answer_within_memory", refuse)
    evaluate.main([*flags, "--summary", str(out / "more.json"), "--methods", *scaled("image", (3, 2))])
    figure.main(["factors", "--summary", str(out / "more.json"), "--span", "image", "--out", str(out / "more")])
    assert json.loads((out / "more" / "attention_reweight_image.json").read_text())["alphas"] == [1, 3, 2]


def test_the_family_of_tests_is_that_of_the_factors_asked_for(done):
    """Holm's correction is not over what else lies in the folder."""
    flags, out = done
    for name, alphas in {"two": (2, 3), "one": (3,)}.items():
        evaluate.main([*flags, "--summary", str(out / f"{name}.json"), "--methods", *scaled("image", alphas, 0)])
    two, one = (json.loads((out / f"{name}.json").read_text())["methods"] for name in ("two", "one"))
    (name,) = (each for each in one if each != "greedy")
    assert one[name]["minus_greedy"]["CHAIRi"]["p"] == two[name]["minus_greedy"]["CHAIRi"]["p"]
    assert sum(len(own.get("minus_greedy", ())) for own in two.values()) == 2 * len(one[name]["minus_greedy"])
    figure.main(["factors", "--summary", str(out / "one.json"), "--span", "image", "--out", str(out / "one")])
    result = json.loads((out / "one" / "attention_reweight_image.json").read_text())
    assert result["random_heads"] == [] and result["minus_greedy"] == {"3": one[name]["minus_greedy"]}


@pytest.mark.parametrize(
    ("methods", "span", "message"),
    [
        (scaled("image", (3,), 0), "after_image", "no scale:span=after_image,alpha=... among the methods"),
        ([*scaled("image", (3,), 0), "scale:span=image,alpha=2,top_k=2"], "image", "factors on several lists of heads"),
        ([*scaled("image", (3,)), *scaled("image", (2,), 0)], "image", "random heads at some factors only, not at 2"),
    ],
)
def test_a_comparison_that_is_no_figure_6_is_one_line(methods, span, message, done, capsys):
    flags, out = done
    evaluate.main([*flags, "--summary", str(out / "wrong.json"), "--methods", *methods])
    with pytest.raises(SystemExit) as stopped:
        figure.main(["factors", "--summary", str(out / "wrong.json"), "--span", span, "--out", str(out / "wrong")])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("alpha", ["-1", "1e999", "x"])
def test_wrong_factors_are_one_line_before_any_work(alpha, done, tmp_path, capsys):
    flags, _ = done
    with pytest.raises(SystemExit) as stopped:
        evaluate.main([*flags, "--methods", f"scale:alpha={alpha},top_k=3", "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert f"alpha={alpha}" in capsys.readouterr().err.replace("Infinity", "1e999")
    assert not list(tmp_path.rglob("run.json"))
