"""A file over HTTP goes on where it was cut off, in the same process or in a later one."""

import os
import re

import pytest

from llava_hh.supplies import fetching
from llava_hh.supplies.fetching import fetch_file, size_of

SIZE = 100_000


@pytest.fixture
def content(hub, monkeypatch) -> bytes:
    """What the server has as /file."""
    monkeypatch.setattr(fetching, "PAUSE", 0.0)
    hub.files["/file"] = os.urandom(SIZE)
    return hub.files["/file"]


def ranges(hub) -> list[int]:
    """Where each request for content began."""
    starts = [re.search(r"bytes=(\d+)-", line) for line in hub.asked if line.startswith("GET /file")]
    return [int(found[1]) if found else 0 for found in starts]


def test_a_whole_file(hub, content, tmp_path):
    assert size_of(f"{hub.url}/file") == SIZE
    fetch_file(f"{hub.url}/file", tmp_path / "file", SIZE)
    assert (tmp_path / "file").read_bytes() == content and ranges(hub) == [0]


@pytest.mark.parametrize("times", [1, 3])
def test_a_connection_that_is_cut_off(times, hub, content, tmp_path):
    hub.cut += ["/file"] * times
    fetch_file(f"{hub.url}/file", tmp_path / "file", SIZE)
    assert (tmp_path / "file").read_bytes() == content
    assert ranges(hub) == [0, 50_000, 75_000, 87_500][: times + 1]


def test_what_a_killed_process_left(hub, content, tmp_path):
    (tmp_path / "file").write_bytes(content[:1234])
    fetch_file(f"{hub.url}/file", tmp_path / "file", SIZE)
    assert (tmp_path / "file").read_bytes() == content and ranges(hub) == [1234]
    fetch_file(f"{hub.url}/file", tmp_path / "file", SIZE)
    assert ranges(hub) == [1234]


def test_a_server_that_begins_anew(hub, content, tmp_path, monkeypatch):
    """It knows no ranges: what was there is overwritten."""
    (tmp_path / "file").write_bytes(b"other")
    opened = fetching._opened
    monkeypatch.setattr(fetching, "_opened", lambda url, method, _: opened(url, method))
    fetch_file(f"{hub.url}/file", tmp_path / "file", SIZE)
    assert (tmp_path / "file").read_bytes() == content


def test_a_file_that_is_too_long(hub, content, tmp_path):
    (tmp_path / "file").write_bytes(content + b"more")
    with pytest.raises(OSError, match=f"file: {SIZE + 4} bytes, and .* has {SIZE}; delete it and give the same"):
        fetch_file(f"{hub.url}/file", tmp_path / "file", SIZE)


def test_a_file_that_is_not_there(hub, tmp_path):
    for ask in (size_of, lambda url: fetch_file(url, tmp_path / "file", SIZE)):
        with pytest.raises(OSError, match="/none: its server answers 404 Not Found"):
            ask(f"{hub.url}/none")
    assert not (tmp_path / "file").exists()


def test_a_connection_that_brings_nothing_any_more(hub, content, tmp_path):
    """What was fetched is kept, and the line says that the same command goes on."""
    hub.files["/file"] = content[:60_000]
    with pytest.raises(
        OSError, match=f"cut off after 60000 of {SIZE} bytes .*; give the same command again, it goes on"
    ):
        fetch_file(f"{hub.url}/file", tmp_path / "file", SIZE)
    hub.files["/file"] = content
    fetch_file(f"{hub.url}/file", tmp_path / "file", SIZE)
    assert (tmp_path / "file").read_bytes() == content


def test_other_addresses_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for url in (f"file://{tmp_path}/file", "ftp://127.0.0.1/file", "data:,x"):
        with pytest.raises(ValueError, match="expected an address that begins with http:// or https://"):
            size_of(url)
