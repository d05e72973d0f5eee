"""Lists read an element at a time: what json.loads reads, whatever the size of the pieces; damage is found."""

import json
import random
import re
from pathlib import Path

import pytest

from llava_hh.files import json_lists
from llava_hh.files.json_lists import read_lists, read_rows

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


FIELDS = ("id", "file_name", "a")
OBJECTS = {
    "info": {"id": 1},
    "images": [{"id": number, "file_name": f'{{"id" {number}, caf\u00e9 \U0001f436 "}}'} for number in range(9)],
    "rows": [
        {"id": -0.0, "outline": [[10.25, 1e-7, 3.14159265358979312e300]], "a": 1 << 70},
        {"id": "7", "outline": {"id": [2], "counts": 'x"\\\n\u2028'}, "a": {"id": 3}},
        {"outline": [{"id": 1}, {"id": 2, "a": []}], "a": None},
        {"id": 0.1, "a": 123456789.123456789, "file_name": True},
    ]
    * 3,
    "end": [{"id": 2}, {"id": 3}],
}


def outcome(path: Path, fields: tuple[str, ...] | None) -> tuple[list, str | None]:
    """What is read of a file, an element's `fields` alone where these are given, and the error that ends it."""
    rows, skipped, error = [], [], None
    try:
        for key, row, value in read_rows(path, skip=skipped.append, fields=fields):
            if fields and isinstance(value, dict):
                value = {name: value[name] for name in value if name in fields}
            rows.append((key, row, repr(value)))
    except ValueError as raised:
        error = str(raised)
    return [rows, skipped], error


def test_msgspec_reads_most_elements_and_leaves_out_the_others_fields(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lists, "PIECE", 1000)
    path = tmp_path / "file.json"
    path.write_text(json.dumps({"annotations": [{"image_id": 1, "area": [0.5] * 9, "id": n} for n in range(1000)]}))
    rows = [row for _, _, row in read_rows(path, fields=("id", "image_id"))]
    assert [row["id"] for row in rows] == list(range(1000))
    assert sum("area" in row for row in rows) < 200
    assert [*read_rows(path)][999] == ("annotations", 1000, {"image_id": 1, "area": [0.5] * 9, "id": 999})


@pytest.mark.parametrize("fields", [None, FIELDS])
@pytest.mark.parametrize("piece", [60, 400, 1 << 20])
def test_what_msgspec_reads_is_what_python_reads_also_of_damaged_files(fields, piece, tmp_path, monkeypatch):
    monkeypatch.setattr(json_lists, "PIECE", piece)
    path, rng = tmp_path / "file.json", random.Random(piece)
    wholes = [json.dumps(OBJECTS), json.dumps(OBJECTS, ensure_ascii=False, indent=1)]
    marks = [
        '"',
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "0",
        "-",
        ".",
        "e",
        "NaN",
        "\\",
        "\\ud83d",
        "\x01",
        ', {"id"',
        "},{",
        "\x85",
    ]
    for number in range(400):
        whole = wholes[number % 2]
        place = rng.randrange(len(whole))
        keep = rng.choice((0, 0, 1))
        path.write_text(whole[:place] + rng.choice(["", *marks]) + whole[place + 1 - keep :], encoding="utf-8")
        with monkeypatch.context() as patched:
            patched.setattr(json_lists, "BEGIN", re.compile("(?!)"))
            by_python = outcome(path, fields)
        assert outcome(path, fields) == by_python


def test_a_number_of_thousands_of_digits_is_an_error_where_it_is_read(tmp_path):
    path, long = tmp_path / "file.json", "1" * 5000
    path.write_text(f'{{"rows": [{{"id": 1, "area": {long}}}, {{"id": 2}}, {{"id": 3}}]}}')
    assert [row["id"] for _, _, row in read_rows(path, fields=("id",))] == [1, 2, 3]
    with pytest.raises(ValueError, match="digits"):
        list(read_rows(path, fields=("id", "area")))


@pytest.mark.parametrize("number", ["1.5", "12e3", "1e-7", "-2.5E+10", "3"])
def test_a_number_that_a_piece_ends_inside_of_goes_on(number, tmp_path, monkeypatch):
    path = tmp_path / "instances.json"
    path.write_text(f'{{"scores": [{number}, {number}], "last": {number}, "images": [{{"id": {number}}}]}}')
    for piece in range(1, 40):
        monkeypatch.setattr(json_lists, "PIECE", piece)
        content = json.loads(path.read_text())
        assert list(read_lists(path)) == expected({key: content[key] for key in ("scores", "images")})
