"""compare runs: a refusal by name for whatever makes runs differ, and what lifts it."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from llava_hh.metrics.chair import variants
from llava_hh.runs import run as runs
from tests.support.compared_runs import LIMIT, chair_i, compared, refusals, sentences_of


def other_prompt(maker, zero, patch):
    return maker.edited("other", "--prompt", "describe the cat")


def other_length(maker, zero, patch):
    return maker.edited("other", "--max-new-tokens", 5)


def fewer_images(maker, zero, patch):
    return maker.edited("other", "--limit", 5)


def other_model(maker, zero, patch):
    """A model of the same sizes in a folder of the same name."""
    maker.checkpoint = Path(shutil.copytree(maker.checkpoint, maker.root / "tiny"))
    weights = load_file(maker.checkpoint / "model.safetensors")
    weights[min(weights)] += 1e-3
    save_file(weights, maker.checkpoint / "model.safetensors", metadata={"format": "pt"})
    return maker.make("other")


def other_config(maker, zero, patch):
    maker.checkpoint = Path(shutil.copytree(maker.checkpoint, maker.root / "tiny"))
    config = json.loads((maker.checkpoint / "config.json").read_text())
    (maker.checkpoint / "config.json").write_text(json.dumps(config, indent=7))
    return maker.make("other")


def earlier_version(maker, zero, patch):
    """What a run.json held when a model was known by its config.json and the sizes of its files."""
    record = json.loads((zero / "run.json").read_text())
    settings, model = record["settings"], record["settings"]["model"]
    settings |= {"dtype": f"torch.{model['dtype']}", "device": model["device"]}
    settings["model"] = {"config_sha256": "0" * 64, "weights": {"model.safetensors": 1}}
    (zero / "run.json").write_text(json.dumps(record))
    return zero


def other_dtype(maker, zero, patch):
    patch.setenv("DTYPE", "bfloat16")
    return maker.edited("other")


def other_library(maker, zero, patch):
    real = runs.version
    patch.setattr(runs, "version", lambda name: "4.37.2" if name == "transformers" else real(name))
    return maker.edited("other")


def other_device(maker, zero, patch):
    """The one that cannot be run here."""
    record = json.loads((zero / "run.json").read_text())
    record["settings"]["model"]["device"] = "cuda"
    (zero / "run.json").write_text(json.dumps(record))
    return zero


def no_record(maker, zero, patch):
    (zero / "run.json").unlink()
    return zero


LIFTED = [
    (other_prompt, "prompt", "'Please describe this image in detail.'", "'describe the cat'"),
    (other_length, "max_new_tokens", "8", "5"),
    (fewer_images, "images", "8 (split val2014, seed 42, n 8)", "5 (split val2014, seed 42, n 5)"),
    (other_model, "model", "sha256 ", "sha256 "),
    (other_config, "model", "sha256 ", "sha256 "),
    (earlier_version, "model", "sha256 ", "tiny, by config.json and file sizes"),
    (other_dtype, "dtype", "float32", "bfloat16"),
    (other_library, "versions", "transformers", "transformers 4.37.2"),
    (other_device, "device", "cpu", "cuda"),
    (no_record, "record", "one", "no run.json"),
]


@pytest.mark.parametrize(
    ("change", "kind", "first", "second"), LIFTED, ids=lambda value: getattr(value, "__name__", "")
)
def test_runs_made_otherwise_are_refused_unless_that_is_compared(
    change, kind, first, second, made, monkeypatch, tmp_path, capsys
):
    maker, greedy, zero = made
    other = change(maker, zero, monkeypatch)
    (line,) = refusals(capsys, greedy, other, "--out", tmp_path / "comparison.json")
    assert line.startswith(f"{kind}: {greedy} has ")
    assert first in line.split(f"{greedy} has ")[1].split(f", {other} has ")[0]
    assert second in line.split(f", {other} has ")[1]
    assert line.endswith(f"; --across {kind} allows it")
    assert not (tmp_path / "comparison.json").exists()
    lifted = compared(tmp_path, greedy, other, "--across", kind)
    assert lifted["settings"]["across"] == [kind]
    assert lifted["runs"][str(greedy)]["n"] == lifted["runs"][str(other)]["n"] == len(sentences_of(other))


def test_a_copied_model_is_the_same(made, tmp_path, capsys):
    maker, greedy, _ = made
    maker.checkpoint = Path(shutil.copytree(maker.checkpoint, maker.root / "tuned"))
    compared(tmp_path, greedy, maker.make("other"))


def other_variant(maker, zero, patch):
    return maker.evaluate(zero, "--variant", "original")


def cut_captions(maker, zero, patch):
    return maker.evaluate(zero, "--drop-incomplete")


def other_truth(maker, zero, patch):
    """Annotations without one category."""
    maker.coco = Path(shutil.copytree(maker.coco, maker.root / "coco"))
    path = maker.coco / "annotations" / "instances_val2014.json"
    content = json.loads(path.read_text())
    named = sentences_of(zero)[0]["mscoco_gt_words"][0]
    (gone,) = [category["id"] for category in content["categories"] if category["name"] == named]
    content["annotations"] = [entry for entry in content["annotations"] if entry["category_id"] != gone]
    path.write_text(json.dumps(content))
    captions = maker.coco / "annotations" / "captions_val2014.json"
    content = json.loads(captions.read_text())
    for entry in content["annotations"]:
        entry["caption"] = entry["caption"].replace(named, "thing")
    captions.write_text(json.dumps(content))
    return maker.evaluate(zero)


def other_synonyms(maker, zero, patch):
    """A list that lacks a word of the captions."""
    word, node = next(
        pair
        for entry in sentences_of(zero)
        for pair in entry["mscoco_hallucinated_words"]
        if all(pair[1] not in other["mscoco_gt_words"] for other in sentences_of(zero))
    )
    table = {category: words for category, words in variants.load_synonyms().items() if category != node}
    reduced = variants.load_variant("hh")
    reduced = variants.Variant(list, reduced.singular, {w: c for c, own in table.items() for w in own}, False)
    with patch.context() as patched:
        patched.setattr("llava_hh.metrics.chair.chair.load_variant", lambda name: reduced)
        return maker.evaluate(zero)


def scores_of_others(maker, zero, patch):
    other = maker.make("other", "--max-new-tokens", 3)
    shutil.copy(other / "captions_eval_results.json", zero)
    return zero


SCORED = [
    (other_variant, "variant: ", "'hh'", "'original'"),
    (cut_captions, "drop_incomplete: ", "False", "True"),
    (other_truth, "ground truth: ", "in image", "in image"),
]


@pytest.mark.parametrize(
    ("change", "start", "first", "second"), SCORED, ids=lambda value: getattr(value, "__name__", "")
)
def test_runs_scored_otherwise_are_refused_and_can_be_scored_here(
    change, start, first, second, made, monkeypatch, tmp_path, capsys
):
    maker, greedy, zero = made
    truth, before = maker.coco / "annotations", sentences_of(zero)
    other = change(maker, zero, monkeypatch)
    (line,) = refusals(capsys, greedy, other, "--out", tmp_path / "comparison.json")
    assert line.startswith(f"{start}{greedy} has ")
    assert first in line.split(f"{greedy} has ")[1].split(f", {other} has ")[0]
    assert second in line.split(f", {other} has ")[1]
    assert line.endswith("; pass --annotations to score all of them here by one")
    anew = compared(tmp_path, greedy, other, "--annotations", truth)["runs"][str(other)]
    assert anew["CHAIRi"] == pytest.approx(chair_i(before), abs=1e-5)


@pytest.mark.parametrize(
    ("change", "start"),
    [(other_synonyms, "synonyms: {} was scored by other rules"), (scores_of_others, "scores: {} holds other captions")],
)
def test_scores_that_do_not_hold_are_refused(change, start, made, monkeypatch, tmp_path, capsys):
    maker, greedy, zero = made
    before = sentences_of(zero)
    other = change(maker, zero, monkeypatch)
    (line,) = refusals(capsys, greedy, other)
    assert line.startswith(start.format(other))
    anew = compared(tmp_path, greedy, other, "--annotations", maker.coco / "annotations")["runs"][str(other)]
    assert anew["CHAIRi"] == pytest.approx(chair_i(before), abs=1e-5)


def test_other_pixels_under_the_same_name_are_refused(made, tmp_path, capsys):
    maker, greedy, _ = made
    maker.coco = Path(shutil.copytree(maker.coco, tmp_path / "coco"))
    row = json.loads((greedy / "captions.jsonl").read_text().splitlines()[2])
    Image.new("RGB", (32, 32), "red").save(maker.coco / "val2014" / row["image"])
    other = maker.edited("other")
    (line,) = refusals(capsys, greedy, other)
    assert line.startswith(f"image contents: {greedy} has ")
    assert f"for image {row['image_id']}, {other} has " in line
    assert "1 files differ by sha256" in line


def test_an_unfinished_run_is_refused(made, tmp_path, capsys):
    maker, greedy, _ = made
    other = maker.make("other")
    (other / "blocks" / "00001.json").unlink()
    lines = refusals(capsys, greedy, other)
    assert lines == [f"unfinished: {other} has 4 of 8 images; give its command again to finish it"]
    maker.make("other")
    assert compared(tmp_path, greedy, other)["runs"][str(other)]["n"] == LIMIT


def test_blocks_that_captions_lack_are_unfinished(made, capsys):
    """A run that went on with more images and was killed after its last block, as earlier versions left it."""
    maker, greedy, zero = made
    lines = (zero / "captions.jsonl").read_text().splitlines(keepends=True)
    (zero / "captions.jsonl").write_text("".join(lines[:5]))
    maker.evaluate(zero)
    lines = refusals(capsys, greedy, zero, "--across", "images")
    assert lines == [f"unfinished: {zero} has 5 of 8 images; give its command again to finish it"]


def test_it_is_said_where_files_were_not_hashed(made, tmp_path, capsys):
    """Blocks as older versions left them."""
    _, greedy, zero = made
    path = zero / "blocks" / "00000.json"
    content = json.loads(path.read_text())
    del content["image_sha256"], content["sha256"]
    path.write_text(json.dumps(content))
    compared(tmp_path, greedy, zero)
    assert "known by sha256 to be the same files: 4 of 8 images" in capsys.readouterr().out


def test_a_second_caption_of_an_image_is_refused(made, capsys):
    maker, greedy, zero = made
    path = zero / "captions.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[1]]))
    maker.evaluate(zero)
    (line,) = refusals(capsys, greedy, zero)
    assert line == f"rows: {zero} has image {json.loads(lines[1])['image_id']} 2 times; expected one caption an image"


def test_everything_that_differs_is_named(made, capsys):
    maker, greedy, zero = made
    other = maker.edited("other", "--prompt", "describe the cat", "--max-new-tokens", 5, "--limit", 6)
    maker.evaluate(other, "--variant", "original")
    maker.evaluate(zero, "--drop-incomplete")
    lines = refusals(capsys, greedy, other, zero)
    assert [line.split(":")[0] for line in lines] == [
        "images",
        "variant",
        "prompt",
        "max_new_tokens",
        "drop_incomplete",
    ]
    lines = refusals(capsys, greedy, other, "--across", "images", "prompt", "max_new_tokens")
    assert [line.split(":")[0] for line in lines] == ["variant"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda zero: (zero / "captions.jsonl").unlink(), "captions.jsonl: no such file; expected a result folder"),
        (lambda zero: (zero / "captions_eval_results.json").unlink(), "run llava-hh score chair"),
        (lambda zero: (zero / "captions.jsonl").write_text("[1]\n"), "row 1: expected an object, found a list"),
        (lambda zero: (zero / "captions.jsonl").write_text(""), "no row there"),
        (lambda zero: (zero / "run.json").write_text("{}"), "no 'settings' there; expected that of a captioning run"),
    ],
)
def test_folders_that_hold_no_run_are_refused(damage, message, made, capsys):
    _, greedy, zero = made
    damage(zero)
    (line,) = refusals(capsys, greedy, zero)
    assert str(zero) in line
    assert message in line


def test_a_run_is_not_compared_with_itself_or_with_other_images(made, capsys):
    maker, greedy, _ = made
    (line,) = refusals(capsys, greedy, greedy)
    assert "expected two or more different ones" in line
    train = ["--split", "train2014", "--image-folder", maker.coco / "train2014"]
    other = maker.edited("other", *train)
    (line,) = refusals(capsys, greedy, other, "--across", "images")
    assert line == f"images: {greedy} and {other} have none in common"
