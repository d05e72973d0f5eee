"""Samples that TF-HH learns nothing from: bad images and answers beyond --max-length, left out, counted, or refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llava_hh.data.instruct import InstructionData
from llava_hh.files.images import load_image
from llava_hh.finetuning.batches import Collator, sample_order
from llava_hh.finetuning.losses import IGNORED
from llava_hh.finetuning.trainer import TargetedTrainer
from llava_hh.models.lvlm import load_lvlm
from llava_hh.scripts import finetune
from tests.support.instructions import write_instructions

BAD = (1, 6)  # rows whose images cannot be read
LONG = (3, 8, 9, 11)  # rows of text whose question is long
N_STEPS, BATCH, SEED = 6, 4, 1234


@pytest.fixture(scope="module")
def folder(tiny_checkpoint, tiny_coco, tmp_path_factory) -> Path:
    """Four rows of text with long questions, a batch, and two images that cannot be read."""
    folder = tmp_path_factory.mktemp("left_out")
    coco = Path(shutil.copytree(tiny_coco, folder / "coco"))
    write_instructions(coco, "train2014")
    rows = json.loads((coco / "instruct_train2014.json").read_text())
    for place in LONG:
        del rows[place]["image"]
        rows[place]["conversations"][0]["value"] = "describe " * 50
    (coco / rows[BAD[0]]["image"]).write_bytes(b"no image")
    (coco / rows[BAD[1]]["image"]).unlink()
    (folder / "data.json").write_text(json.dumps(rows))
    (folder / "heads.json").write_text('{"hal_heads": [[3, 1], [0, 2]]}')
    return folder


def flags(folder: Path, checkpoint: Path, out: Path, *more: object) -> list[str]:
    flags = ["--model", checkpoint, "--heads", folder / "heads.json", "--top-k", 2, "--data", folder / "data.json"]
    flags += ["--image-folder", folder / "coco", "--steps", N_STEPS, "--batch-size", BATCH, "--learning-rate", 1e-2]
    return [str(flag) for flag in [*flags, "--save-every", 2, "--max-length", 40, "--out", out, *more]]


def refused(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        finetune.main(flags(*arguments))
    assert stopped.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def done(folder, tiny_checkpoint, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("done") / "out"
    finetune.main(flags(folder, tiny_checkpoint, out, "--skip-bad"))
    return out


def counted(folder: Path) -> tuple[int, int]:
    """How often bad images and long questions come up, by the order of the samples."""
    data = InstructionData(folder / "data.json")
    order = sample_order(data.lengths, data.has_image, BATCH, N_STEPS, SEED)
    return sum(place in BAD for place in order), sum(place in LONG for place in order)


def test_a_training_leaves_them_out_and_says_how_many(folder, done, tiny_checkpoint, tmp_path, capsys):
    bad, long = counted(folder)
    assert bad and long
    log = [json.loads(line) for line in (done / "log.jsonl").read_text().splitlines()]
    assert [sum(row[name] for row in log) for name in ("n_bad_images", "n_unanswered")] == [bad, long]
    finetune.main(flags(folder, tiny_checkpoint, tmp_path, "--skip-bad", "--log-every", 4))  # 2 not logged
    printed = capsys.readouterr().out
    assert f"{bad} of 24 samples were left out for a bad image" in printed
    assert f"{long} of 24 samples have no answer within --max-length 40 tokens" in printed
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1


def test_without_skip_bad_the_first_one_stops_it(folder, tiny_checkpoint, tmp_path, capsys):
    error = refused(capsys, folder, tiny_checkpoint, tmp_path)
    assert error.startswith(f"error: {folder / 'data.json'}: sample ") and ".jpg: " in error
    assert not (tmp_path / "model").exists()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def assert_same_weights(one: Path, other: Path, tolerance: float) -> None:
    one, other = weights(one), weights(other)
    assert max((one[name] - other[name]).abs().max().item() for name in other) <= tolerance


def test_a_killed_training_goes_on_with_the_same_rows(folder, done, tiny_checkpoint, tmp_path, monkeypatch, capsys):
    save, saved = TargetedTrainer._save_checkpoint, []

    def killed(self, *arguments):
        save(self, *arguments)
        saved.append(1)
        if len(saved) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TargetedTrainer, "_save_checkpoint", killed)
        finetune.main(flags(folder, tiny_checkpoint, tmp_path, "--skip-bad"))
    finetune.main(flags(folder, tiny_checkpoint, tmp_path, "--skip-bad"))
    assert_same_weights(tmp_path, done, 1e-6)
    assert (tmp_path / "log.jsonl").read_text() == (done / "log.jsonl").read_text()
    assert f"{counted(folder)[0]} of 24 samples were left out" in capsys.readouterr().out  # of both parts


def test_a_pass_without_a_sample_changes_nothing(folder, done, tiny_checkpoint, tmp_path):
    """One sample a pass, so that some passes have none."""
    finetune.main(flags(folder, tiny_checkpoint, tmp_path, "--skip-bad", "--accumulation", BATCH))
    assert_same_weights(tmp_path, done, 1e-4)


def test_a_batch_is_that_of_its_good_samples(folder, tiny_checkpoint):
    lvlm, data = load_lvlm(tiny_checkpoint), InstructionData(folder / "data.json")
    collate = Collator(lvlm, data, folder / "coco", 40, skip_bad=True)
    batch = collate([0, BAD[0], 2])
    images = [load_image(folder / "coco" / data[place].image) for place in (0, 2)]
    plain, labels = lvlm.encode_conversations(images, [data[place].turns for place in (0, 2)], 40)
    assert torch.equal(batch["labels"], labels) and batch["n_bad_images"] == 1 and batch["n_unanswered"] == 0
    assert all(torch.equal(batch["inputs"][name], plain.inputs[name]) for name in plain.inputs)
    none = collate(BAD)
    assert (none["labels"] == IGNORED).all() and (none["n_bad_images"], none["n_unanswered"]) == (2, 0)


def test_answers_that_are_all_beyond_the_length_are_an_error(folder, tiny_checkpoint, tmp_path, capsys):
    lvlm, data = load_lvlm(tiny_checkpoint), InstructionData(folder / "data.json")
    image = load_image(folder / "coco" / data[0].image)
    [start] = lvlm.encode([image], [data[0].turns[0][0]]).response_start
    error = refused(capsys, folder, tiny_checkpoint, tmp_path, "--skip-bad", "--max-length", start)
    assert f"no sample with an image that can be read has an answer within --max-length {start} tokens" in error
    assert not (tmp_path / "model").exists() and not (tmp_path / "log.jsonl").exists()


def test_images_that_are_all_bad_are_an_error(folder, tiny_checkpoint, tmp_path, capsys):
    more = ("--skip-bad", "--image-folder", tmp_path / "nowhere")
    assert "no sample with an image that can be read" in refused(capsys, folder, tiny_checkpoint, tmp_path, *more)


def test_losses_without_weight_are_an_error(folder, tiny_checkpoint, tmp_path, capsys):
    more = ("--ce-coeff", 0, "--attention-coeff", 0)
    assert "expected a loss to train for" in refused(capsys, folder, tiny_checkpoint, tmp_path, *more)
