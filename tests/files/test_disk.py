"""A disk that refuses: one line with the file and what to do, no half file, and the same command goes on afterwards."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llava_hh.command_line.script import errors_in_one_line
from llava_hh.files.disk import in_bytes, refuse_full
from llava_hh.files.files import replacing, write_json, write_tensors, write_text
from llava_hh.files.schema import SCHEMA_VERSION
from llava_hh.runs.run import start_run
from tests.support.repository import ROOT
from tests.support.seeded import Seeded

SMALL_DISK = """
mount -t tmpfs -o size=256k tmpfs "$1" || exit 77
shift
"$@"
"""
RUN = """
import sys
from pathlib import Path
import numpy as np
from llava_hh.command_line.script import errors_in_one_line
from llava_hh.figures.style import plt, save_figure
from llava_hh.runs.run import start_run
from tests.support.seeded import Seeded
folder, filler = Path(sys.argv[1]) / "run", Path(sys.argv[1]) / "filler"
samples = [{"image_id": number} for number in range(6)]

def work():
    with errors_in_one_line(False), start_run(folder, Seeded(1)) as run:
        for number, block in run.blocks(samples, 1, "test"):
            run.finish_block(number, block, [{"square": number**2}], {"zeros": np.zeros((1, 4000), dtype=np.float32)})
            print("block", number)
            if number == 1 and not sys.argv[2:]:
                filler.write_bytes(bytes(150_000))
        run.write_rows("rows.jsonl")
        save_figure(plt.figure(), folder / "picture")

try:
    work()
except SystemExit as stopped:
    print("status", stopped.code)
print("left", *sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()))
filler.unlink()
sys.argv.append("again")
work()
print("left", *sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()))
"""


def test_a_full_disk_keeps_finished_blocks_and_the_command_goes_on(tmp_path):
    """On a file system of 256 kB in a mount namespace of its own."""
    command = ["unshare", "-m", "sh", "-c", SMALL_DISK, "sh", tmp_path, sys.executable, "-c", RUN, tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode in (1, 77) and "not permitted" in done.stderr:
        pytest.skip("no file system can be mounted here")
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    stop = said.index("status 2")
    finished = stop  # a line each
    assert 2 <= finished < 6
    blocks = [f"blocks/{number:05d}.{ending}" for number in range(6) for ending in ("json", "safetensors")]
    left = set(said[stop + 1].split()[1:])
    # of the block that did not fit its arrays may be there, whole; without its rows it counts for nothing
    assert left - {f"blocks/{finished:05d}.safetensors"} == {"run.json", *blocks[: 2 * finished]}
    errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert f"{tmp_path}/run/blocks/{finished:05d}." in errors[0]
    assert "could not be written" in errors[0] and "No space left on device" in errors[0]
    assert "make room and give the same command again" in errors[0]
    assert said[stop + 2 : -1] == [f"block {number}" for number in range(finished, 6)]
    assert said[-1].split()[1:] == sorted([*blocks, "picture.pdf", "picture.png", "rows.jsonl", "run.json"])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG])
def test_every_refusal_names_the_file_and_keeps_the_old_one(number, tmp_path, monkeypatch, capsys):
    """As refused when a file takes another's place, which comes last."""
    path = tmp_path / "x.json"
    write_json(path, {"run": {}})

    def replace(*paths):
        raise OSError(number, os.strerror(number), paths[0])

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(SystemExit) as stopped, errors_in_one_line(False):
        write_json(path, {"new": 1})
    assert stopped.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: {path}: could not be written ({os.strerror(number)}); ")
    assert line.count("\n") == 1
    assert "make room" in line or "choose another folder" in line
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]
    assert json.loads(path.read_text()) == {"schema_version": SCHEMA_VERSION, "run": {}}


@pytest.mark.parametrize("write", ["write_text", "write_tensors"])
def test_a_limit_of_file_size_stops_text_and_tensors(write, tmp_path):
    script = """
import resource, sys
from pathlib import Path
import numpy as np
from llava_hh.command_line.script import errors_in_one_line
CONTENT = {"write_tensors": {"zeros": np.zeros(5000)}, "write_text": "x" * 5000}
from llava_hh.files.files import write_tensors, write_text
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with errors_in_one_line(False):
    {"write_tensors": write_tensors, "write_text": write_text}[sys.argv[2]](Path(sys.argv[1]), CONTENT[sys.argv[2]])
"""
    path = tmp_path / f"{write}.out"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, path, write]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {path}: could not be written (")
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_read_is_not_said_to_be_unwritable(capsys):
    with pytest.raises(SystemExit), errors_in_one_line(False):
        Path("/proc/self/mem/x").read_text()
    assert capsys.readouterr().err == "error: /proc/self/mem/x: Not a directory\n"
    with pytest.raises(SystemExit), errors_in_one_line(False):
        raise OSError("a line of our own")
    assert capsys.readouterr().err == "error: a line of our own\n"


def test_whole_files_take_the_place_of_old_ones(tmp_path):
    path = tmp_path / "deep" / "x.txt"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert [file.name for file in path.parent.iterdir()] == ["x.txt"]
    assert path.read_text() == "old"
    write_text(path, "new")
    write_tensors(path.with_suffix(".safetensors"), {"a": np.arange(3)})
    assert path.read_text() == "new"
    assert sorted(file.name for file in path.parent.iterdir()) == ["x.safetensors", "x.txt"]
    with start_run(tmp_path / "run", Seeded()):
        pass


@pytest.mark.parametrize(
    ("size", "expected"), [(0, "0 kB"), (999_400, "999 kB"), (1e6, "1 MB"), (92e6, "92 MB"), (14.13e9, "14.1 GB")]
)
def test_bytes_in_words(size, expected):
    assert in_bytes(size) == expected


def test_room_is_counted_by_disk(tmp_path):
    """What goes to one disk adds up, whether its folder is there or not; a disk of its own counts by itself."""
    free = shutil.disk_usage(tmp_path).free
    half = {tmp_path / "a" / "b": 0.6 * free, tmp_path: 0.6 * free}
    refuse_full({tmp_path / "a" / "b": 0.6 * free})
    with pytest.raises(OSError, match=f"^{tmp_path}: .* are needed there, .* are free; make room, or move$"):
        refuse_full(half, "move")
