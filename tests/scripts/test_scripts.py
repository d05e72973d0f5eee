"""The main job end to end on a random model: caption, evaluate, attribute, compare; kill -9 and resume."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from llava_hh.files.files import sha256
from llava_hh.scripts import attribute, caption, evaluate
from tests.support.main_job import LENGTH, attribute_flags, caption_flags, read_attribution
from tests.support.repository import ROOT
from tests.support.tiny_results import of_kind
from tests.support.verbs import error_of, score_chair


@pytest.fixture(scope="module")
def captions(tiny_checkpoint, tiny_coco, tmp_path_factory) -> Path:
    """A folder with greedy captions and their evaluation."""
    out = tmp_path_factory.mktemp("captions")
    caption.main(caption_flags(tiny_checkpoint, tiny_coco, out))
    score_chair(["--captions", str(out / "captions.jsonl"), "--annotations", str(tiny_coco / "annotations")])
    return out


@pytest.fixture(scope="module")
def attribution(tiny_checkpoint, tiny_coco, captions, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("attribution")
    attribute.main(attribute_flags(tiny_checkpoint, tiny_coco, captions / "captions_eval_results.json", out))
    return out


def test_captions_have_one_row_per_image(captions):
    rows = [json.loads(line) for line in (captions / "captions.jsonl").read_text().splitlines()]
    assert len({row["image_id"] for row in rows}) == 14
    keys = {"question_id", "image_id", "image", "prompt", "text", "token_ids", "finish_reason", "model_id"}
    assert all(row.keys() == keys for row in rows)
    assert json.loads((captions / "run.json").read_text())["image_ids"] == [row["image_id"] for row in rows]


def test_attribution_result_agrees_with_its_tables(attribution):
    result, hallucinated, log_probs = read_attribution(attribution)
    n_targets = len(hallucinated)
    shapes = {"clean": (n_targets,), "heads": (n_targets, 4, 4), "mha": (n_targets, 4), "mlp": (n_targets, 4)}
    assert {name: array.shape for name, array in log_probs.items()} == shapes
    probs = {name: np.exp(array.astype(np.float64)) for name, array in log_probs.items()}

    def contrast_of(kind: str) -> np.ndarray:
        influences = probs["clean"].reshape(-1, *[1] * (probs[kind].ndim - 1)) - probs[kind]
        return influences[hallucinated].mean(0) - influences[~hallucinated].mean(0)

    contrast = contrast_of("heads")
    assert np.allclose(contrast, result["contrastive_influence"], atol=1e-7)
    for kind in ("mha", "mlp"):
        assert np.allclose(contrast_of(kind), result["modules"][kind]["contrastive_influence"], atol=1e-7)
    layer, head = np.unravel_index(contrast.argmax(), contrast.shape)
    assert result["hal_heads"][0] == [layer, head]
    assert len(result["hal_heads"]) == len(result["non_hal_heads"]) == 5
    assert result["n_hallucinated_words"] == hallucinated.sum()
    low, high = np.array(result["interval"]["contrastive_influence"])
    assert ((low < contrast) & (contrast < high)).mean() > 0.8
    assert {"1", "2", "5", "10"} == result["stability"]["half_overlap"].keys()
    assert (attribution / "head_map.png").stat().st_size > 1000


@pytest.mark.parametrize(("read_out", "released"), [("log", False), ("absolute", False), ("probability", True)])
def test_read_outs_and_released_targets(
    read_out, released, tiny_checkpoint, tiny_coco, captions, attribution, tmp_path
):
    """Another read-out is a matter of arithmetic on a finished run; other targets are another run."""
    flags = attribute_flags(tiny_checkpoint, tiny_coco, captions / "captions_eval_results.json", tmp_path)
    if not released:
        shutil.copytree(attribution, tmp_path, dirs_exist_ok=True)
    attribute.main([*flags, "--read-out", read_out, *["--released"] * released])
    result, hallucinated, log_probs = read_attribution(tmp_path)
    clean, ablated = log_probs["clean"].astype(np.float64)[:, None, None], log_probs["heads"].astype(np.float64)
    influences = clean - ablated if read_out == "log" else np.exp(clean) - np.exp(ablated)
    influences = np.abs(influences) if read_out == "absolute" else influences
    expected = influences[hallucinated].mean(0) - influences[~hallucinated].mean(0)
    assert np.allclose(expected, result["contrastive_influence"], atol=1e-6)
    assert result["read_out"] == read_out


@pytest.mark.parametrize("ablation", ["mean", "noise"])
def test_ablation_by_statistics_of_the_data_set(ablation, tiny_checkpoint, tiny_coco, captions, attribution, tmp_path):
    """Module outputs are gathered first; a rerun repeats neither; zeroing gives other numbers."""
    flags = attribute_flags(tiny_checkpoint, tiny_coco, captions / "captions_eval_results.json", tmp_path)
    attribute.main([*flags, "--ablation", ablation])
    _, _, log_probs = read_attribution(tmp_path)
    _, _, zeroed = read_attribution(attribution)
    assert np.array_equal(log_probs["clean"], zeroed["clean"])
    assert np.abs(log_probs["heads"] - zeroed["heads"]).mean() > 1e-4
    sums = load_file(tmp_path / "module_outputs" / "blocks" / "00000.safetensors")
    assert sums["count"] == len(log_probs["clean"])
    before = (tmp_path / "ablations.safetensors").read_bytes()
    attribute.main([*flags, "--ablation", ablation])
    assert (tmp_path / "ablations.safetensors").read_bytes() == before


def test_a_finished_run_is_not_done_again(tiny_checkpoint, tiny_coco, captions, attribution, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a finished block ran again")

    monkeypatch.setattr("llava_hh.attribution.run.ablate_every_head", refuse)
    monkeypatch.setattr("llava_hh.decoding.method.generate_greedily", refuse)
    before = {path: path.read_bytes() for path in (captions / "captions.jsonl", attribution / "targets.jsonl")}
    caption.main(caption_flags(tiny_checkpoint, tiny_coco, captions))
    attribute.main(attribute_flags(tiny_checkpoint, tiny_coco, captions / "captions_eval_results.json", attribution))
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize("further", [[], ["--ablation", "mean"]])
def test_a_finished_run_of_captions_that_were_made_anew_is_refused(
    further, tiny_checkpoint, tiny_coco, captions, tmp_path, capsys
):
    """Their scores are of the earlier ones, finished or not."""
    own = Path(shutil.copytree(captions, tmp_path / "captions"))
    (own / "captions_eval_results.json").unlink()
    score_chair(["--captions", str(own / "captions.jsonl"), "--annotations", str(tiny_coco / "annotations")])
    flags = attribute_flags(tiny_checkpoint, tiny_coco, own / "captions_eval_results.json", tmp_path / "out")
    attribute.main([*flags, *further])
    rows = (own / "captions.jsonl").read_text().splitlines(keepends=True)
    (own / "captions.jsonl").write_text("".join(rows[:-1]))
    error = error_of(attribute.main, capsys, *flags, *further)
    assert "captions.jsonl beside it has changed since; run llava-hh score chair again" in error


def test_kill_and_rerun_leave_the_same_bytes(tiny_checkpoint, tiny_coco, captions, attribution, tmp_path):
    """kill -9 after the first finished block; the rerun completes the rest. Other scripts: test_faults.py."""
    flags = attribute_flags(tiny_checkpoint, tiny_coco, captions / "captions_eval_results.json", tmp_path)
    command = [sys.executable, "-m", "llava_hh", "attribute", *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    blocks = tmp_path / "blocks"
    while process.poll() is None and not list(blocks.glob("*.json")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    n_done = len(list(blocks.glob("*.json")))
    assert n_done >= 1
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    for file in ("targets.jsonl", "ablations.safetensors", "head_map.png"):
        assert (tmp_path / file).read_bytes() == (attribution / file).read_bytes(), file


def test_comparison_and_choice(tiny_checkpoint, tiny_coco, attribution, tmp_path, capsys):
    heads = str(attribution / "attribution_result.json")
    shared = ["--model", str(tiny_checkpoint), "--annotations", str(tiny_coco / "annotations"), "--heads", heads]
    shared += ["--max-new-tokens", LENGTH, "--batch-size", "7"]
    train = ["--image-folder", str(tiny_coco / "train2014"), "--limit", "14", "--out", str(tmp_path / "choice")]
    tried = [f"adhh:top_k={top_k},threshold={threshold}" for top_k in (1, 3) for threshold in (0.05, 0.9)]
    split = ["--split", "train2014", "--choose", "--recall-loss", "1"]
    evaluate.main([*shared, *train, *split, "--methods", *tried])
    choice = json.loads((tmp_path / "choice" / "choice.json").read_text())
    assert [(p["top_k"], p["threshold"]) for p in choice["points"]] == [(1, 0.05), (1, 0.9), (3, 0.05), (3, 0.9)]
    assert (tmp_path / "choice" / "choice.png").exists()
    val = ["--image-folder", str(tiny_coco / "val2014"), "--out", str(tmp_path / "val")]
    evaluate.main([*shared, *val, "--methods", "adhh:top_k=2,threshold=0.05", "random:draws=2,of=adhh"])
    summary = json.loads((tmp_path / "val" / "summary.json").read_text())
    adhh = of_kind(tmp_path / "val", "adhh")
    assert [*summary["methods"]] == ["greedy", adhh.name, "random heads"]
    for entry in summary["methods"].values():
        assert {"CHAIRs", "CHAIRi", "recall", "mentions", "n", "interval"} <= entry.keys()
    evaluated = json.loads((adhh / "captions_eval_results.json").read_text())
    assert summary["methods"][adhh.name]["CHAIRi"] == pytest.approx(evaluated["overall_metrics"]["CHAIRi"], abs=1e-5)
    truth = {path.name: sha256(path) for path in (tiny_coco / "annotations").glob("*_*2014.json")}
    assert truth == evaluated["run"]["truth"] == summary["settings"]["truth"] == choice["settings"]["truth"] != {}
    assert (tmp_path / "val" / "summary_captions.png").exists()
    assert "| random heads, mean of 2 runs |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--method", "adhh"], "needs heads=FILE, or --heads"),
        (["--model", "nowhere"], "nowhere: no config.json"),
        (["--annotations", "nowhere"], "nowhere"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(extra, message, tiny_checkpoint, tiny_coco, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        caption.main([*caption_flags(tiny_checkpoint, tiny_coco, tmp_path), *extra])
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


def test_a_bad_image_stops_or_is_skipped(tiny_checkpoint, tiny_coco, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in (tiny_coco / "train2014").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    bad = sorted(folder.iterdir())[3]
    bad.write_bytes(b"no image")
    flags = [*caption_flags(tiny_checkpoint, tiny_coco, tmp_path / "stops"), "--image-folder", str(folder)]
    with pytest.raises(SystemExit):
        caption.main(flags)
    assert f"{bad}: not an image" in capsys.readouterr().err
    caption.main([*flags, "--out", str(tmp_path / "skips"), "--skip-bad"])
    assert len((tmp_path / "skips" / "captions.jsonl").read_text().splitlines()) == 13
    out = capsys.readouterr().out
    assert f"skipped: {bad}: not an image" in out
    assert "13 captions, 1 bad image skipped" in out
