"""mini's build on a tiny base model: vision tower, tuning with a kill in the middle, assembly."""

import shutil
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers.normalizers import Replace
from torch import nn
from transformers import AutoModelForCausalLM

from llava_hh.attention.hooks import intervene
from llava_hh.attention.interventions import ZeroHeads
from llava_hh.mini import stages, tuning, vision
from llava_hh.mini.dataset import Split, write_split
from llava_hh.mini.model import END_OF_TURN, IMAGE_TOKEN, PROJECTOR_FILE, VISION_FILE, assemble
from llava_hh.models.lvlm import load_lvlm
from llava_hh.scripts import mini
from tests.support.modes import of_other_modes
from tests.support.tiny import N_HEADS, tiny_llama, tiny_llava
from tests.support.tiny_checkpoint import word_tokenizer


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """A folder with a tiny language model, data of six images, and a vision tower trained for two steps."""
    folder = tmp_path_factory.mktemp("mini")
    base = tiny_llama()
    base.config.tie_word_embeddings = True
    base.tie_weights()
    base.save_pretrained(folder / "base")
    tokenizer = word_tokenizer([END_OF_TURN, IMAGE_TOKEN], END_OF_TURN)
    tokenizer.backend_tokenizer.normalizer = Replace("\n", " . ")  # a newline has to be a token
    tokenizer.save_pretrained(folder / "base")
    write_split(Split("tune", 6, 10, together=0.9, hard=0.6, is_told=True), folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vision, "STEPS", 2)
        patch.setattr(vision, "BATCH", 2)
        vision.train_vision_tower(folder / VISION_FILE)
    return folder


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    few = {"STEPS": 4, "SAVED_STEPS": (2, 4), "BATCH": 2, "ALIGN_STEPS": 2, "ALIGN_BATCH": 2}
    for name, value in {**few, "SUPPRESSORS": ((0, 3), (1, 0))}.items():
        monkeypatch.setattr(tuning, name, value)


def tune(parts: Path, out: Path) -> None:
    tuning.tune(parts / "base", parts / VISION_FILE, parts / "data", out)


def test_tuning_goes_on_after_a_kill_as_if_there_was_none(parts, tmp_path, monkeypatch):
    tune(parts, tmp_path / "whole")
    plain, calls = tuning.answer_loss, []

    def dies_in_the_third_step(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(*args)

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "answer_loss", dies_in_the_third_step)
        with pytest.raises(KeyboardInterrupt):
            tune(parts, tmp_path / "killed")
    assert not tuning.step_folder(tmp_path / "killed", 4).exists()
    tune(parts, tmp_path / "killed")
    for step in (2, 4):
        for name in ("adapter_model.safetensors", "projector.safetensors"):
            whole, resumed = (tuning.step_folder(tmp_path / run, step) / name for run in ("whole", "killed"))
            assert whole.read_bytes() == resumed.read_bytes(), (step, name)


def test_the_assembled_folder_is_the_tuned_model(parts, tmp_path):
    tune(parts, tmp_path)
    models = []
    for step in (2, 4):
        out = tmp_path / f"model-{step}"
        assemble(parts / "base", parts / VISION_FILE, tuning.step_folder(tmp_path, step), out)
        models.append(load_lvlm(out))
    first, last = (lvlm.model.model.language_model.layers[0].self_attn.q_proj.weight for lvlm in models)
    assert not torch.equal(first, last)
    assert models[1].processor.chat_template
    assert models[1].end_token_ids == [models[1].tokenizer.convert_tokens_to_ids(END_OF_TURN)]
    assert not of_other_modes(tmp_path)


def test_every_step_and_the_start_become_folders(parts, tmp_path, monkeypatch):
    """Step 0 has the base language model; a rerun leaves finished folders alone."""
    tune(parts, tmp_path / "adapters")
    (tmp_path / "adapters" / VISION_FILE).write_bytes((parts / VISION_FILE).read_bytes())
    monkeypatch.setattr(stages, "SAVED_STEPS", (2, 4))
    flags = ["--base", parts / "base", "--weights", tmp_path / "adapters", "--steps", tmp_path / "steps"]
    mini.main(["steps", *map(str, flags)])
    models = [load_lvlm(tuning.step_folder(tmp_path / "steps", step)).model.model for step in (0, 2, 4)]
    base = AutoModelForCausalLM.from_pretrained(parts / "base")
    start, first, last = (model.language_model.layers[0].self_attn.q_proj.weight for model in models)
    assert torch.equal(start, base.model.layers[0].self_attn.q_proj.weight)
    assert not torch.equal(start, first)
    assert not torch.equal(first, last)
    for name in ("assemble", "save_start"):
        monkeypatch.setattr(stages, name, lambda *_, **__: pytest.fail("a finished folder was made again"))
    mini.main(["steps", *map(str, flags)])


def test_another_seed_trains_another_model(parts, tmp_path):
    """--seed reaches the tuning: the weights are those of tune with it, not those of the usual one."""
    for name, seed in (("plain", []), ("other", ["--seed", "3"])):
        folder = tmp_path / name
        folder.mkdir()
        (folder / VISION_FILE).write_bytes((parts / VISION_FILE).read_bytes())
        flags = ["--base", parts / "base", "--weights", folder, "--data", parts / "data"]
        mini.main(["tune", *map(str, flags), *seed])
    tuning.tune(parts / "base", parts / VISION_FILE, parts / "data", tmp_path / "expected", seed=3)
    plain, other, expected = (
        load_file(tuning.step_folder(tmp_path / name, 4) / "adapter_model.safetensors")
        for name in ("plain", "other", "expected")
    )
    assert all(weight.isfinite().all() for weight in other.values())
    assert all(torch.equal(other[key], expected[key]) for key in expected)
    assert any(not torch.equal(other[key], plain[key]) for key in plain)


def test_suppressors_are_zeroed_in_some_samples_alone(monkeypatch):
    """Against the same model under ZeroHeads: rows that lost their suppressors equal it, the others the plain model."""
    monkeypatch.setattr(tuning, "BATCH", 8)
    model, ids = tiny_llava(), torch.arange(8 * 5).view(8, 5) + 3
    lvlm = Namespace(n_heads=N_HEADS, decoder_layers=model.model.language_model.layers)
    plain = model(input_ids=ids).logits
    with intervene(model, torch.zeros_like(ids, dtype=torch.bool), [ZeroHeads(tuning.SUPPRESSORS)]):
        without = model(input_ids=ids).logits
    dropout, kept = tuning.SuppressorDropout(lvlm, seed=1), set()
    for step in (1, 2):
        dropout.start(step)
        torch.testing.assert_close(
            model(input_ids=ids).logits, torch.where(dropout.is_kept[:, None, None], plain, without)
        )
        kept.add(tuple(dropout.is_kept.tolist()))
    assert len(kept) == 2 and all(any(rows) and not all(rows) for rows in kept)


@pytest.fixture
def build(tmp_path, monkeypatch, capsys):
    """Runs a stage in small folders, which writes the seed or step that it made; returns these, or its error."""
    made = []

    def write(path: Path, text: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(text))
        made.append(text)

    def assembled(base, vision, step, out):
        write(out / "config.json", step.name)

    monkeypatch.setattr(stages, "tune", lambda *args: write(tmp_path / "w" / "step-560" / PROJECTOR_FILE, args[-1]))
    monkeypatch.setattr(stages, "assemble", assembled)
    monkeypatch.setattr(stages, "save_start", lambda base, vision, out, seed: write(out / "config.json", seed))
    write(tmp_path / "base" / "config.json", "{}")
    write(tmp_path / "w" / VISION_FILE, "tower")
    folders = ("--base", tmp_path / "base", "--weights", tmp_path / "w", "--data", tmp_path / "data")
    folders += ("--model", tmp_path / "model", "--steps", tmp_path / "steps")

    def run(*flags: str) -> list | str:
        made.clear()
        try:
            mini.main([*flags[:1], *map(str, folders), *flags[1:]])
        except SystemExit as stopped:
            assert stopped.code == 2 and not made
            return capsys.readouterr().err
        return list(made)

    return run


def test_weights_of_another_seed_are_refused(build, tmp_path):
    assert build("tune", "--seed", "6") == [6] and build("tune", "--seed", "6") == []
    error = build("tune")
    assert error.startswith("error: ") and error.count("\n") == 1
    assert "seed was 6, is 5. Name a new folder, or delete it" in error
    (tmp_path / "w" / VISION_FILE).write_text("another tower")
    assert "inputs.vision" in build("tune", "--seed", "6")


def test_a_checkpoint_of_another_step_is_refused(build, tmp_path):
    assert build("assemble", "--step", "140") == ["step-140"] and build("assemble", "--step", "140") == []
    assert "step was 140, is 560" in build("assemble")
    shutil.rmtree(tmp_path / "base")
    assert build("assemble", "--step", "140") == []


def test_folders_of_steps_are_of_their_weights(build, tmp_path):
    assert build("steps") == [5, *(f"step-{step:03d}" for step in stages.SAVED_STEPS)] and build("steps") == []
    assert "step-000: is there, made otherwise: seed was 5, is 6" in build("steps", "--seed", "6")
    (tmp_path / "w" / "step-140").mkdir()
    (tmp_path / "w" / "step-140" / PROJECTOR_FILE).write_text("of another tuning")
    assert "step-140: is there, made otherwise: inputs.projector" in build("steps")


def test_results_without_a_record_count_as_the_usual_ones(build, tmp_path):
    for stage in ("tune", "assemble", "steps"):
        build(stage)
    for record in tmp_path.rglob("*.made_of.json"):
        record.unlink()
    for stage in ("tune", "assemble", "steps"):
        assert build(stage) == []
    assert "seed was 5, is 6" in build("tune", "--seed", "6") and "seed was 5, is 6" in build("steps", "--seed", "6")
    assert "step was 560, is 140" in build("assemble", "--step", "140")


def tiny_tuning(width: int = 3) -> tuple[list, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    parameters = [nn.Parameter(torch.ones(width, 2))]
    optimizer = torch.optim.AdamW(parameters, 0.1)
    return parameters, optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 5)


def one_step(parameters, optimizer, schedule) -> None:
    optimizer.zero_grad()
    parameters[0].pow(2).sum().backward()
    optimizer.step()
    schedule.step()


def test_minis_tuning_goes_on_from_its_state_or_says_what_to_do(tmp_path):
    path, first, second = tmp_path / "tuning_state.pt", tiny_tuning(), tiny_tuning()
    one_step(*first)
    tuning.save_state(path, "mine", 1, *first)
    assert tuning.load_state(path, "mine", *second) == 1
    for each in (first, second):
        one_step(*each)
    assert torch.equal(first[0][0], second[0][0])
    content = path.read_bytes()
    for inputs, width, damaged in (
        ("others", 3, content),
        ("mine", 1, content),
        *(("mine", 3, damaged) for damaged in (content[:-50], content[: len(content) // 2], b"", b"x")),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"tuning_state\.pt: cannot be gone on from .*; delete it") as error:
            tuning.load_state(path, inputs, *tiny_tuning(width))
        assert "\n" not in str(error.value)


def test_minis_state_is_the_old_one_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "tuning_state.pt"
    tuning.save_state(path, "mine", 1, *tiny_tuning())
    before = path.read_bytes()

    def full(content, file):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="make room"):
        tuning.save_state(path, "mine", 2, *tiny_tuning())
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]
