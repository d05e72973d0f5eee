"""What a fine-tuning is known by: DeepSpeed's configuration and the images; and what its summary says of its model."""

import json
from dataclasses import fields, replace

import pytest

from llava_hh.finetuning.settings import FineTuningSettings, digest_of_settings, sharding
from llava_hh.scripts import targeted_finetune
from llava_hh.settings import differences


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
    assert digest_of_settings(before) != digest_of_settings(after)


def test_a_configuration_of_deepspeed_is_known_by_its_content(deepspeed, tmp_path):
    found = []
    for name, clipping, indent in (("one", 1.0, None), ("moved", 1.0, 2), ("other", 0.1, None)):
        (tmp_path / name).write_text(
            json.dumps({"gradient_clipping": clipping, "zero_optimization": {}}, indent=indent)
        )
        deepspeed(DEEPSPEED_CONFIG_FILE=str(tmp_path / name))
        found.append(replace(settings(), sharding=sharding()))
    one, moved, other = found
    assert not differences(one.record(), moved) and digest_of_settings(one) == digest_of_settings(moved)
    assert differences(one.record(), other) == ["sharding.deepspeed_config_file was one, is other: other content"]


def test_without_deepspeed_its_variables_decide_nothing(monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_CLIPPING", "1.0")
    assert sharding() == "no"


def test_every_flag_is_compared_or_free():
    flags = ("--model", "--heads", "--data", "--image-folder", "--out")
    given = {*vars(targeted_finetune.parser().parse_args([word for flag in flags for word in (flag, f"a{flag}")]))}
    named = {each.name for each in fields(FineTuningSettings)}
    assert given - named == {"out", "debug", "foreign_heads"}
    assert named - given == {"images", "mixed_precision", "sharding"}
    for name in named:
        changed = replace(settings(), **{name: 2})
        assert (name in changed.free()) == (not differences(settings().record(), changed))
        assert (name in changed.free()) == (digest_of_settings(changed) == digest_of_settings(settings()))
