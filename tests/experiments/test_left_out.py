"""A decoder that a model cannot have is left out of the tables by name; the others are compared without it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llava_hh.comparing.summary import note_of_left_out, table_of
from llava_hh.decoding.method import CannotDecode
from llava_hh.decoding.registry import DECODERS, known_kinds
from llava_hh.report.folder import ResultFolder
from llava_hh.report.tables import find_comparisons
from llava_hh.scripts import evaluate
from tests.support.tiny_checkpoint import N_WORDS
from tests.support.tiny_newer import save_tiny_family

BY_CROSS_ATTENTION = {
    "OPERA": "this model reads its image by cross-attention, not at positions of the prompt",
    "PAI": "no image positions to drop or hide: this model reads its image by cross-attention",
}


@pytest.fixture(scope="module")
def mllama(tmp_path_factory) -> Path:
    """With words for yes and no."""
    folder = tmp_path_factory.mktemp("models") / "mllama"
    save_tiny_family("mllama", folder)
    text = (folder / "tokenizer.json").read_text()
    for place, word in enumerate(("Yes", "yes", "No", "no")):
        text = text.replace(f'"<extra{N_WORDS + place}>"', f'"{word}"')
    (folder / "tokenizer.json").write_text(text)
    return folder


def flags_for(model: Path, coco: Path, out: Path, *methods: str) -> list[str]:
    flags = ["--model", model, "--image-folder", coco / "val2014", "--annotations", coco / "annotations", "--out", out]
    flags += ["--limit", 3, "--max-new-tokens", 3, "--batch-size", 2]
    return [str(flag) for flag in [*flags, "--methods", *methods]]


def refusal(flags: list[str], capsys) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(flags)
    assert stopped.value.code == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    return line


def test_captions_of_the_others_are_compared(mllama, tiny_coco, tmp_path, capsys):
    evaluate.main(flags_for(mllama, tiny_coco, tmp_path / "some", "opera", "dola_repo", "pai"))
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line.startswith("left out")] == [
        f"left out: {name.lower()}: {why}" for name, why in BY_CROSS_ATTENTION.items()
    ]
    summary = json.loads((tmp_path / "some/summary.json").read_text())
    assert summary["settings"]["left_out"] == BY_CROSS_ATTENTION
    assert list(summary["methods"]) == ["greedy", "dola_repo"]
    assert set(summary["settings"]["methods"]) == {"greedy", "dola_repo"}
    assert {path.name for path in (tmp_path / "some").glob("*/")} == {"greedy", "dola_repo"}
    note = "Left out: " + "; ".join(f"{name} ({why})" for name, why in BY_CROSS_ATTENTION.items())
    assert note in (tmp_path / "some/summary.md").read_text()
    assert note in find_comparisons(ResultFolder(tmp_path / "some"))[0]["note"]
    without = flags_for(mllama, tiny_coco, tmp_path / "without", "dola_repo")
    evaluate.main(without)
    other = json.loads((tmp_path / "without/summary.json").read_text())
    assert "left_out" not in other["settings"]
    assert other["methods"]["dola_repo"]["CHAIRi"] == summary["methods"]["dola_repo"]["CHAIRi"]
    assert table_of(other).note == table_of(summary).note.removesuffix(f" {note}.")


def test_without_guidance_too(mllama, tiny_coco, tmp_path):
    evaluate.main(flags_for(mllama, tiny_coco, tmp_path, "pai:gamma=1,start_layer=0", "dola_repo"))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["settings"]["left_out"] == {"PAI": BY_CROSS_ATTENTION["PAI"]}
    assert "dola_repo" in summary["methods"]


def test_questions_too(mllama, tiny_coco, tmp_path, capsys):
    evaluate.main([*flags_for(mllama, tiny_coco, tmp_path, "pai", "dola_repo", "opera"), "--task", "pope"])
    assert capsys.readouterr().out.count("left out: ") == 2
    content = json.loads((tmp_path / "pope.json").read_text())
    assert content["settings"]["left_out"] == BY_CROSS_ATTENTION
    assert set(content["methods"]) == set(content["settings"]["methods"]) == {"greedy", "dola_repo"}
    note = "Left out: PAI ("
    assert note in (tmp_path / "pope.md").read_text()
    assert note in find_comparisons(ResultFolder(tmp_path))[0]["note"]
    assert not (tmp_path / "opera").exists()


@pytest.mark.parametrize("task", ["chair", "pope", "loss"])
def test_where_nothing_is_left_nothing_is_done(task, mllama, tiny_coco, tmp_path, capsys):
    line = refusal([*flags_for(mllama, tiny_coco, tmp_path, "opera", "pai", "greedy"), "--task", task], capsys)
    reasons = BY_CROSS_ATTENTION
    if task == "loss":
        no_loss = "{} gives no loss of captions: it is no intervention under greedy decoding"
        reasons = {name: no_loss.format(name.lower()) for name in BY_CROSS_ATTENTION}
    assert f"--methods: this model can have none of them: OPERA: {reasons['OPERA']}; PAI: {reasons['PAI']}" in line
    assert not list(tmp_path.glob("*/"))


def test_a_cache_that_slides(tiny_coco, tmp_path):
    save_tiny_family("gemma3", tmp_path / "gemma3")
    evaluate.main(flags_for(tmp_path / "gemma3", tiny_coco, tmp_path / "out", "opera", "vcd_paper"))
    left_out = json.loads((tmp_path / "out/summary.json").read_text())["settings"]["left_out"]
    expected = "branches need a cache that keeps every key; this model's has DynamicLayer, DynamicSlidingWindowLayer"
    assert left_out == {"OPERA": expected}


def test_a_processor_that_does_not_normalise(tiny_checkpoint, tiny_coco, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    content = json.loads((folder / "processor_config.json").read_text())
    content["image_processor"]["do_normalize"] = False
    (folder / "processor_config.json").write_text(json.dumps(content))
    evaluate.main(flags_for(folder, tiny_coco, tmp_path / "out", "vcd_repo", "vcd_paper"))
    left_out = json.loads((tmp_path / "out/summary.json").read_text())["settings"]["left_out"]
    assert left_out.keys() == {"vcd_repo"} and "undoes normalisation, which" in left_out["vcd_repo"]


def test_what_torch_lacks_still_stops(tiny_checkpoint, tiny_coco, tmp_path, monkeypatch, capsys):
    """It raises the same kind of error, of a fault that is nobody's family."""

    def broken(*_: object) -> None:
        raise NotImplementedError("Cannot copy out of meta tensor; no data!")

    known_kinds()  # so that they are registered
    monkeypatch.setitem(DECODERS, "vcd_paper", replace(DECODERS["vcd_paper"], decode=broken))
    line = refusal(flags_for(tiny_checkpoint, tiny_coco, tmp_path, "vcd_paper", "dola_repo"), capsys)
    assert "Cannot copy out of meta tensor" in line
    assert issubclass(CannotDecode, NotImplementedError)


def test_no_note_where_all_are_there():
    assert note_of_left_out({}) == note_of_left_out({"left_out": {}}) == ""
