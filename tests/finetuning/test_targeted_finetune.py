"""TF-HH from end to end on a random model: what moves, what a kill, several processes, a NaN and a full disk do."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llava_hh.decoding.method import generate_greedily
from llava_hh.files.images import load_image
from llava_hh.finetuning.batches import sample_order
from llava_hh.finetuning.checkpoints import last_whole_checkpoint
from llava_hh.finetuning.losses import TargetedModel
from llava_hh.models.lvlm import DESCRIBE, load_lvlm
from llava_hh.runs.identity import identify_checkpoint
from llava_hh.scripts import evaluate, finetune
from tests.support.instructions import HEADS, N_STEPS
from tests.support.launching import finish, launch
from tests.support.repository import ROOT
from tests.support.verbs import compare_seeds


@pytest.fixture(scope="module")
def done(flags, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("done") / "out"
    finetune.main([*flags, "--out", str(out)])
    return out


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def changed_rows(before: dict, after: dict) -> dict[str, list[int]]:
    assert before.keys() == after.keys()
    rows = {name: (before[name] != after[name]).view(len(before[name]), -1).any(1) for name in before}
    return {name: changed.nonzero().flatten().tolist() for name, changed in rows.items() if changed.any()}


def parts(changed: dict[str, list[int]]) -> dict[str, list[int]]:
    """Heads by layer and projection, from rows of 8."""
    named = {name.split("layers.")[1]: rows for name, rows in changed.items() if "self_attn" in name}
    return {
        name.replace(".self_attn", "").removesuffix(".weight"): sorted({row // 8 for row in rows})
        for name, rows in named.items()
    }


def test_rows_of_the_heads_and_the_vocabulary_move_and_no_other_bit(done, tiny_checkpoint):
    changed = changed_rows(weights(tiny_checkpoint), weights(done / "model"))
    assert parts(changed) == {"0.q_proj": [2], "0.k_proj": [1], "3.q_proj": [1, 2], "3.k_proj": [0, 1]}
    assert len(changed) == 5 and "language_model.lm_head.weight" in changed
    load_lvlm(done / "model")


def read_log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_log_and_curves(done):
    log = read_log(done)
    assert [row["step"] for row in log] == list(range(1, N_STEPS + 1))
    assert log[-1]["attention_loss"] < log[0]["attention_loss"]
    assert log[-1]["after_image_mass"] < log[0]["after_image_mass"]
    for row in log:
        assert row["loss"] == pytest.approx(row["ce"] + 2 * row["attention_loss"], abs=1e-5)
    assert (done / "curves.png").stat().st_size > 1000
    assert json.loads((done / "run.json").read_text())["settings"]["heads"] == HEADS[:3]
    assert not (done / "checkpoints").exists()


@pytest.mark.parametrize(
    ("more", "expected", "vocabulary"),
    [
        (["--released"], {"0.q_proj": [2], "0.k_proj": [1], "3.q_proj": [1], "3.k_proj": [0]}, True),
        (["--no-lm-head"], {"0.q_proj": [2], "0.k_proj": [1], "3.q_proj": [1, 2], "3.k_proj": [0, 1]}, False),
    ],
)
def test_what_is_trained_is_what_the_flags_say(more, expected, vocabulary, flags, tiny_checkpoint, tmp_path):
    finetune.main([*flags, "--steps", "2", "--out", str(tmp_path), *more])
    changed = changed_rows(weights(tiny_checkpoint), weights(tmp_path / "model"))
    assert parts(changed) == expected
    assert ("language_model.lm_head.weight" in changed) == vocabulary


def test_random_heads_are_others(flags, tmp_path):
    finetune.main([*flags, "--steps", "2", "--random-heads", "5", "--out", str(tmp_path)])
    heads = json.loads((tmp_path / "run.json").read_text())["settings"]["heads"]
    assert len(heads) == 3 and not [head for head in heads if head in HEADS[:3]]


def test_checkpointing_and_accumulation_change_nothing(flags, done, tmp_path):
    more = ["--gradient-checkpointing", "--accumulation", "2", "--out", str(tmp_path)]
    finetune.main([*flags, *more])
    assert_same_weights(tmp_path / "model", done / "model", 1e-4)


def assert_same_weights(one: Path, other: Path, tolerance: float) -> None:
    one, other = weights(one), weights(other)
    assert max((one[name] - other[name]).abs().max().item() for name in other) <= tolerance


def test_two_processes_equal_one(flags, done, tmp_path):
    finish(launch(2, "llava_hh", ["finetune", *flags, "--out", str(tmp_path)]))
    assert_same_weights(tmp_path / "model", done / "model", 1e-4)
    logs = [
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in (tmp_path, done)
    ]
    for ours, alone in zip(*logs, strict=True):
        for name in ("loss", "ce", "attention_loss", "image_mass", "after_image_mass"):
            assert ours[name] == pytest.approx(alone[name], abs=1e-4), name


def test_a_killed_training_goes_on_as_if_it_had_not_been(flags, done, tmp_path):
    command = [sys.executable, "-m", "llava_hh", "finetune", *flags, "--out", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(tmp_path.glob("checkpoints/*/manifest.json")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "model").exists()
    partial = tmp_path / "checkpoints" / "checkpoint-999"  # begun, never completed
    partial.mkdir()
    finetune.main([*flags, "--out", str(tmp_path)])
    assert_same_weights(tmp_path / "model", done / "model", 1e-6)
    assert (tmp_path / "log.jsonl").read_text() == (done / "log.jsonl").read_text()


def test_a_training_killed_after_its_last_step_only_writes_its_result(flags, done, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("llava_hh.finetuning.run.save_checkpoint", killed)
        finetune.main([*flags, "--out", str(tmp_path)])
    assert last_whole_checkpoint(tmp_path / "checkpoints").name == f"checkpoint-{N_STEPS}"
    finetune.main([*flags, "--out", str(tmp_path)])
    assert_same_weights(tmp_path / "model", done / "model", 1e-6)
    assert (tmp_path / "log.jsonl").read_text() == (done / "log.jsonl").read_text()


def test_a_full_disk_leaves_the_last_checkpoint(flags, done, tmp_path, capsys):
    """A limit on the size of files stops the second checkpoint; without it, the training goes on from the first."""
    whole = TargetedModel.forward
    steps = []

    def forward(self, *args, **kwargs):
        steps.append(1)
        if len(steps) == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        return whole(self, *args, **kwargs)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
            patch.setattr(TargetedModel, "forward", forward)
            finetune.main([*flags, "--out", str(tmp_path)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "checkpoint-4: could not be written" in error and error.endswith("checkpoint-2")
    assert last_whole_checkpoint(tmp_path / "checkpoints").name == "checkpoint-2"
    finetune.main([*flags, "--out", str(tmp_path)])
    assert_same_weights(tmp_path / "model", done / "model", 1e-6)


def test_a_tied_model_trains_its_vocabulary_only_when_untied(flags, tiny_checkpoint, tmp_path, capsys):
    tied = tmp_path / "tied"
    shutil.copytree(tiny_checkpoint, tied)
    lvlm = load_lvlm(tiny_checkpoint)
    for config in (lvlm.model.config, lvlm.model.config.text_config):
        config.tie_word_embeddings = True
    lvlm.model.tie_weights()
    lvlm.model.save_pretrained(tied)
    flags = [*flags, "--model", str(tied), "--steps", "2"]
    finetune.main([*flags, "--out", str(tmp_path / "frozen")])
    changed = changed_rows(weights(tied), weights(tmp_path / "frozen" / "model"))
    assert len(changed) == 4
    with pytest.raises(SystemExit):
        finetune.main([*flags, "--lm-head", "--out", str(tmp_path / "refused")])
    assert "pass --untie" in capsys.readouterr().err
    finetune.main([*flags, "--untie", "--out", str(tmp_path / "untied")])
    lvlm = load_lvlm(tmp_path / "untied" / "model")
    embeddings, vocabulary = lvlm.model.get_input_embeddings().weight, lvlm.model.get_output_embeddings().weight
    assert torch.equal(embeddings, load_lvlm(tied).model.get_input_embeddings().weight)
    assert (embeddings != vocabulary).any()


# --- the order of samples


def test_batches_are_of_one_kind_and_of_similar_lengths():
    lengths = [(place * 37) % 101 for place in range(400)]
    has_image = [place % 4 != 0 for place in range(400)]
    order = sample_order(lengths, has_image, 8, 100, seed=1)
    batches = [order[start : start + 8] for start in range(0, 800, 8)]
    first, second = sum(batches[:50], []), sum(batches[50:], [])
    assert sorted(first) == sorted(second) == list(range(400)) and first != second
    mixed = [batch for batch in batches if len({has_image[place] for place in batch}) > 1]
    assert len(mixed) <= 2 * 1
    spread = [max(lengths[place] for place in batch) - min(lengths[place] for place in batch) for batch in batches]
    assert sum(spread) / len(spread) < 25  # of 101; of random batches, about 80
    assert order == sample_order(lengths, has_image, 8, 100, seed=1)
    assert order != sample_order(lengths, has_image, 8, 100, seed=2)


# --- the table of all methods


def test_comparison_of_methods(flags, done, tiny_checkpoint, tiny_coco, tmp_path, capsys):
    seeds = []
    for name, more in (("heads_2", ["--seed", "2"]), ("random_2", ["--seed", "2", "--random-heads", "2"])):
        finetune.main([*flags, "--steps", "2", *more, "--out", str(tmp_path / name)])
        seeds.append(tmp_path / name)
    shutil.copytree(done, tmp_path / "heads_1")
    heads = flags[flags.index("--heads") + 1]
    compared = ["--model", tiny_checkpoint, "--image-folder", tiny_coco / "val2014", "--heads", heads]
    compared += ["--annotations", tiny_coco / "annotations", "--limit", 6, "--max-new-tokens", 8, "--batch-size", 3]
    tuned = [f'tfhh:path="{folder}"' for folder in (tmp_path / "heads_1", seeds[0])]
    methods = ["adhh:top_k=3,threshold=0.3", *tuned, f'tfhh:path="{seeds[1]}",group=random_heads_tuned']
    compared += ["--methods", *methods, "--out", tmp_path / "val"]
    evaluate.main([str(flag) for flag in compared])
    summary = json.loads((tmp_path / "val" / "summary.json").read_text())
    kinds = ("adhh", "tfhh-heads_1", "tfhh-heads_2", "tfhh-random_2")
    adhh, *folders = (next((tmp_path / "val").glob(f"{kind}-*")) for kind in kinds)
    first, second, _ = (folder.name for folder in folders)
    methods = summary["methods"]
    assert list(methods) == ["greedy", adhh.name, first, second, "tfhh", "random_heads_tuned"]
    assert methods["tfhh"]["mentions"] == pytest.approx(
        (methods[first]["mentions"] + methods[second]["mentions"]) / 2, abs=1e-5
    )
    assert methods[first]["minus_greedy"].keys() == methods[adhh.name]["minus_greedy"].keys()
    over = methods["tfhh"]["over_runs"]["mentions"]
    assert over["values"] == [methods[name]["mentions"] for name in (first, second)]
    assert over["minus_reference"]["mean"] == pytest.approx(over["mean"] - methods["greedy"]["mentions"], abs=2e-5)
    assert "over_runs" not in methods["random_heads_tuned"]
    out = tmp_path / "seeds.json"
    runs, greedy = [str(folder) for folder in folders[:2]], str(tmp_path / "val" / "greedy")
    compare_seeds(["--runs", *runs, "--reference", greedy, "--out", str(out)])
    assert json.loads(out.read_text())["mentions"] == over
    text = capsys.readouterr().out
    assert "| TF-HH, 2 runs | CHAIR_i % |" in text and "| val, 2 runs | recall % |" in text
    assert "TF-HH, mean of 2 runs" in text and "as many random heads fine-tuned, mean of 1 run" in text
    tuning = methods[first]["fine_tuning"]
    assert [*methods["random_heads_tuned"]["fine_tuning"].values()][0]["settings"]["random_heads"] == 2
    assert tuning["end"]["after_image_mass"] < tuning["start"]["after_image_mass"]
    assert (
        summary["settings"]["methods"][first]["model"]["sha256"]
        == identify_checkpoint(tmp_path / "heads_1" / "model")["sha256"]
    )
    # the captions of a tuned model are those of its checkpoint, loaded plainly
    lvlm = load_lvlm(tmp_path / "heads_1" / "model")
    rows = [json.loads(line) for line in (folders[0] / "captions.jsonl").read_text().splitlines()]
    image = load_image(tiny_coco / "val2014" / rows[0]["image"])
    assert generate_greedily(lvlm, lvlm.encode([image], [DESCRIBE]), 8)[0].token_ids == rows[0]["token_ids"]
