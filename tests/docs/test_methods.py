"""docs/methods.md names every kind of method with its settings."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from llava_hh.decoding.registry import DECODERS, HEAD_FIELDS, INTERVENTIONS, ONE_OF_EACH, known_kinds

PAGE = (Path(__file__).resolve().parents[2] / "docs/methods.md").read_text(encoding="utf-8")
ROWS = [line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith("| `")]
KINDS = {name: row for row in ROWS for name in re.findall(r"`(\w+)`", row[0])}
OWN = {"removal", "removal_released", "scale", "boost"}  # of the paper's analyses


def test_every_method_has_a_row():
    known_kinds()
    assert {*KINDS} == {*DECODERS, *INTERVENTIONS} - OWN
    assert [re.findall(r"`(\w+)`", row[0])[0] for row in ROWS] == [*ONE_OF_EACH][:1] + [
        name for row in ROWS[1:] for name in re.findall(r"`(\w+)`", row[0])[:1] if name in ONE_OF_EACH
    ]


@pytest.mark.parametrize("name", KINDS)
def test_settings_are_those_of_the_preset(name):
    row = KINDS[name]
    if name in INTERVENTIONS:
        given = HEAD_FIELDS | dict(INTERVENTIONS[name].defaults)
    else:
        given = {field.name: getattr(DECODERS[name].settings, field.name) for field in fields(DECODERS[name].settings)}
    of_preset = {key: value for each in re.findall(rf"`{name}`: ([^;|]*)", row[3]) for key, value in settings_in(each)}
    for key, value in {**dict(settings_in(row[3].split(";")[0])), **of_preset}.items():
        if name == re.findall(r"`(\w+)`", row[0])[0] or key in of_preset:
            assert given[key] == value, (name, key)
    if name in INTERVENTIONS:
        told = {key for key, _ in settings_in(row[3])} | {*re.findall(r"`(\w+)`", row[3])}
        assert {*INTERVENTIONS[name].defaults} <= told


def settings_in(text):
    for key, value in re.findall(r"`(\w+)=([^`]+)`", text):
        try:
            yield key, json.loads(value)
        except ValueError:
            yield key, value
