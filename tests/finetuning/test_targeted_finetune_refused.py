"""What a fine-tuning refuses: losses that are NaN, wrong flags, folders without weights, too few samples."""

import json
import re

import pytest

from llava_hh.finetuning.batches import sample_order
from llava_hh.finetuning.losses import TargetedModel
from llava_hh.scripts import finetune
from tests.support.tiny_llava15 import save_tiny_llava15


def test_a_loss_that_is_no_number_stops_with_step_and_samples(flags, tmp_path, capsys, monkeypatch):
    whole = TargetedModel.forward
    steps = []

    def forward(self, *args, **kwargs):
        steps.append(1)
        outputs = whole(self, *args, **kwargs)
        return outputs if len(steps) < 3 else {**outputs, "loss": outputs["loss"] * float("nan")}

    monkeypatch.setattr(TargetedModel, "forward", forward)
    with pytest.raises(SystemExit) as stopped:
        finetune.main([*flags, "--out", str(tmp_path)])
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: step 3: the loss is nan; samples 1")
    assert len(error.split("samples ")[1].split(". ")[0].split(", ")) == 4
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--batch-size", "50"], "14 samples do not fill a batch of 50"),
        (["--accumulation", "3"], "no multiple of 1 processes x 3 passes"),
        (["--top-k", "9"], "has 4 heads, 9 were asked for"),
        (["--data", "nowhere.json"], "nowhere.json: no such file"),
        (["--image-folder", "nowhere"], "sample 1.*no such image"),
    ],
)
def test_wrong_input_is_one_line(more, message, flags, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        finetune.main([*flags, "--out", str(tmp_path / "out"), *more])
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(message, error) and error.startswith("error: ")


def test_a_folder_that_says_how_another_is_asked_is_not_trained(flags, tmp_path, capsys):
    """The result would be asked as LLaVA is, so nothing could compare it with its start."""
    save_tiny_llava15(tmp_path / "weights")
    (tmp_path / "asked").mkdir()
    fields = {"model_type": "llava_harness", "parts": {"model": ["../weights"]}}
    (tmp_path / "asked/config.json").write_text(json.dumps(fields))
    with pytest.raises(SystemExit):
        finetune.main([*flags, "--model", str(tmp_path / "asked"), "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "fine-tune the checkpoint that its config.json names" in error
    assert not (tmp_path / "out/log.jsonl").exists()


def test_too_few_samples():
    with pytest.raises(ValueError, match="3 samples do not fill a batch of 4"):
        sample_order([1, 2, 3], [True] * 3, 4, 1, seed=0)
