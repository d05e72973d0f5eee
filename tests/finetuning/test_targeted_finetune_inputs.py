"""What a fine-tuning is known by: DeepSpeed's configuration and the images; and what its summary says of its model."""

import json
import sys
from dataclasses import fields, replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from llava_hh.decoding.grammar import Spec
from llava_hh.decoding.making import Member
from llava_hh.decoding.method import Greedy
from llava_hh.experiments.chair import KEPT_LOG, fine_tuning_of
from llava_hh.files import files
from llava_hh.finetuning.checkpoints import write_manifest
from llava_hh.finetuning.run import digests_of_images, is_trained
from llava_hh.finetuning.settings import FineTuningSettings, sharding
from llava_hh.runs import identity
from llava_hh.runs import run as runs
from llava_hh.runs.settings import differences
from llava_hh.scripts import finetune


@pytest.fixture
def deepspeed(monkeypatch):
    """Sets variables as `accelerate launch` does for DeepSpeed."""

    def launched(**variables: str) -> None:
        for name, value in {"USE_DEEPSPEED": "true", "DEEPSPEED_ZERO_STAGE": "2", **variables}.items():
            monkeypatch.setenv(f"ACCELERATE_{name}", value)

    return launched


def settings() -> FineTuningSettings:
    return FineTuningSettings(**dict.fromkeys((each.name for each in fields(FineTuningSettings)), 1))


def test_another_clipping_of_deepspeed_is_another_training(deepspeed):
    deepspeed(GRADIENT_CLIPPING="1.0", DEEPSPEED_CONFIG_FILE="none")
    before = replace(settings(), sharding=sharding())
    deepspeed(GRADIENT_CLIPPING="0.5")
    after = replace(settings(), sharding=sharding())
    assert differences(before.record(), after) == ["sharding.gradient_clipping was '1.0', is '0.5'"]
    assert before.digest() != after.digest()


def test_a_configuration_of_deepspeed_is_known_by_its_content(deepspeed, tmp_path):
    found = []
    for name, clipping, indent in (("one", 1.0, None), ("moved", 1.0, 2), ("other", 0.1, None)):
        (tmp_path / name).write_text(
            json.dumps({"gradient_clipping": clipping, "zero_optimization": {}}, indent=indent)
        )
        deepspeed(DEEPSPEED_CONFIG_FILE=str(tmp_path / name))
        found.append(replace(settings(), sharding=sharding()))
    one, moved, other = found
    assert not differences(one.record(), moved) and one.digest() == moved.digest()
    assert differences(one.record(), other) == ["sharding.deepspeed_config_file was one, is other: other content"]


def test_without_deepspeed_its_variables_decide_nothing(monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_CLIPPING", "1.0")
    assert sharding() == "no"


def test_each_image_is_read_once_and_by_one_process(tmp_path, monkeypatch):
    """The other process sends its share, by the launcher's store: the trainer makes the process group itself."""
    names = ["a.jpg", "b.jpg", "missing.jpg", "z.jpg"]
    for name in (names[0], names[1]):
        (tmp_path / name).write_text(name)
    team, read = Mock(rank=0, count=2, exchange=lambda own: [own, json.dumps([None, "of z"])]), []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)  # bars are for terminals
    monkeypatch.setattr(runs, "processes", lambda: team)
    monkeypatch.setattr(files, "sha256", lambda path: read.append(path.name) or f"of {path.stem}")
    found = digests_of_images(tmp_path, [*names, *names])
    assert found == dict(zip(names, ["of a", "of b", None, "of z"], strict=True)) and read == names[:2]
    assert not team.gather.called


def test_a_finished_model_is_read_once_on_a_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(identity, "SETTLED", -1.0)
    monkeypatch.setattr(identity, "SMALL", 0)
    reads, whole = [], identity._digest_with_bar
    monkeypatch.setattr(identity, "_digest_with_bar", lambda path, size: reads.append(path.name) or whole(path, size))
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_text("weights")
    write_manifest(model, "of mine", 3)
    for _ in range(2):
        assert is_trained(SimpleNamespace(out=tmp_path, steps=3))
    assert reads == ["model.safetensors"]


def test_the_summary_says_how_a_model_was_trained(tmp_path):
    tuning = tmp_path / "heads_1"
    rows = [dict.fromkeys(KEPT_LOG, step) for step in (1, 3)]
    files.write_rows(tuning / "log.jsonl", rows)
    start = {"name": "model", "sha256": "start", "files": {}}
    files.write_json(tuning / "run.json", {"settings": {"model": start, "seed": 1}, "seconds": 2.0})
    found = fine_tuning_of(Member(Greedy(checkpoint=tuning / "model"), Spec("tfhh")))
    assert found == {"settings": {"seed": 1}, "start": rows[0], "end": rows[1], "seconds": 2.0}
    assert fine_tuning_of(Member(Greedy(checkpoint=tmp_path), Spec("tfhh"))) == {}
    assert fine_tuning_of(Member(Greedy(), Spec("greedy"))) == {}


def test_every_flag_is_compared_or_free():
    flags = ("--model", "--heads", "--data", "--image-folder", "--out")
    given = {*vars(finetune.parser().parse_args([word for flag in flags for word in (flag, f"a{flag}")]))}
    named = {each.name for each in fields(FineTuningSettings)}
    assert given - named == {"out", "debug", "plugin", "profile", "foreign_heads"}
    assert named - given == {"images", "mixed_precision", "sharding"}
    for name in named:
        changed = replace(settings(), **{name: 2})
        assert (name in changed.free()) == (not differences(settings().record(), changed))
        assert (name in changed.free()) == (changed.digest() == settings().digest())
