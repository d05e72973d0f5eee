"""Files are whole or not there; damaged JSON is one line that names the file."""

import pytest

from llava_hh.files.files import read_any_json, read_json, read_json_lines, replacing, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), replacing(path) as part:
        part.write_text("half")
        _ = 1 / 0
    with (
        pytest.raises(OSError, match=r"result\.txt: could not be written \(No space left on device\); make room"),
        replacing(path) as part,
    ):
        part.write_text("half")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old" and [each.name for each in tmp_path.iterdir()] == ["result.txt"]


DAMAGED = {
    b"": "not JSON",
    b"{": "not JSON",
    b"\xff\xfe\x00": "not JSON",
    b"[" * 100_000: "not JSON (maximum recursion depth",
    b'{"a": "' + b"\xe9" + b'"}': "not JSON",
    '{"a": 1}'.encode("utf-16"): "not JSON ('utf-8' codec can't decode",
    b"1" * 5000: "not JSON (Exceeds the limit",
    b'{"a": "\\ud83d"}': r"half of a character, \ud83d; expected whole text",
    b"[1]": "expected a JSON object, found a list",
    b"null": "expected a JSON object, found a NoneType",
}


@pytest.mark.parametrize("content", DAMAGED, ids=[repr(key[:8]) for key in DAMAGED])
def test_damaged_json(content, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError) as stopped:
        read_json(path)
    assert str(stopped.value).startswith(f"{path}: {DAMAGED[content]}") and "\n" not in str(stopped.value)


def test_json_of_other_programs(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'{"a": "\\uD83D\\uDC15"}')
    assert read_any_json(path) == {"a": "\N{DOG}"}
    for content in (b'\xef\xbb\xbf{"a": 1}', b'{"a": 1}\r\n\r\n'):
        path.write_bytes(content)
        assert read_any_json(path) == {"a": 1}


def test_json_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"a": "\u2028"}\r\n\n  \n{"a": 2}'.encode())
    assert list(read_json_lines(path)) == [(1, {"a": "\u2028"}), (4, {"a": 2})]
    for content, message in (
        (b"\n", "no row there"),
        (b"{}\n{", "row 2: not JSON"),
        (b"{}\n[]", "row 2: expected an object, found a list"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as stopped:
            list(read_json_lines(path))
        assert str(path) in str(stopped.value)
    with pytest.raises(FileNotFoundError, match="nowhere: no such file; expected rows of answers"):
        list(read_json_lines(tmp_path / "nowhere", "rows of answers"))
