"""Lists read an element at a time: what json.loads reads, whatever the size of the pieces; damage is found."""

import json
import random

import pytest

from llava_hh.files import json_lists
from llava_hh.files.json_lists import read_lists

CONTENT = {
    "info": {"year": 2014, "list": [1, 2]},
    "images": [{"id": 12345, "file_name": 'caf\u00e9 "]}.jpg'}, {"id": -3.5e2}],
    "n": 123456789,
    "empty": [],
    "nested": [{"a": {"b": 1}, "c": "},"}, {"d": [{"e": 1}, 2], "f": '{"}, '}, 5, {"g": {}}, [{}, {}]],
    "mixed": [12345678, "text", None, [1, [2]], True, {}],
}


def expected(content: dict) -> list:
    lists = [(key, value) for key, value in content.items() if isinstance(value, list)]
    return [(key, element) for key, value in lists for element in (value or [None])]


@pytest.mark.parametrize("piece", [1, 2, 7, 50, 130, 1 << 20])
@pytest.mark.parametrize("indent", [None, 1])
def test_equals_json(tmp_path, monkeypatch, piece, indent):
    monkeypatch.setattr(json_lists, "PIECE", piece)
    path = tmp_path / "file.json"
    path.write_text(json.dumps(CONTENT, indent=indent, ensure_ascii=False), encoding="utf-8")
    assert list(read_lists(path)) == expected(CONTENT)
    path.write_text(" {} \n")
    assert list(read_lists(path)) == []


def test_any_cut_and_any_lost_character_is_found_or_harmless(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lists, "PIECE", 5)
    path, whole = tmp_path / "file.json", json.dumps(CONTENT)
    for end in range(len(whole)):
        path.write_text(whole[:end])
        with pytest.raises(ValueError):
            list(read_lists(path))
    rng = random.Random(0)
    for place in rng.sample(range(len(whole)), 80):
        text = whole[:place] + whole[place + 1 :]
        path.write_text(text)
        try:
            content = json.loads(text)
        except ValueError:
            with pytest.raises(ValueError):
                list(read_lists(path))
        else:
            assert list(read_lists(path)) == expected(content)


@pytest.mark.parametrize("text", ["", "[]", "3", "{} x", '{"a" 1}', '{"a": [1 2]}', '{"a": 1 "b": 2}'])
def test_other_texts_are_refused(tmp_path, text):
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(ValueError):
        list(read_lists(tmp_path / "file.json"))
