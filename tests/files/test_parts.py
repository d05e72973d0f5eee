"""Parts: names that nobody can guess, cleared when their process is gone and never while it lives."""

import errno
import fcntl
import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path
from stat import S_IMODE

import numpy as np
import pytest
from safetensors.numpy import save_file

from llava_hh.files import parts
from llava_hh.files.files import replacing, write_text
from llava_hh.files.parts import HOST, drop_parts, folder_part_of, part_of
from tests.support.repository import ROOT

WRITER = """
import sys
from pathlib import Path
from llava_hh.files.files import replacing
from llava_hh.files.parts import folder_part_of
with replacing(Path(sys.argv[1]) / "a.json") as part, folder_part_of(Path(sys.argv[1]) / "b") as folder:
    part.write_text('{"run": {}}')
    (folder / "c").write_text("whole")
    print("begun", flush=True)
    sys.stdin.read()
"""


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def writer(folder: Path, *before: str) -> subprocess.Popen:
    """Another process that has begun to write a.json and the folder b, and ends when its stdin is closed."""
    command = [*before, sys.executable, "-c", WRITER, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    return process


@pytest.mark.parametrize("kind", [part_of, folder_part_of])
def test_a_part_has_a_name_of_its_own_each_time(kind, tmp_path):
    with kind(tmp_path / "a") as first, kind(tmp_path / "b") as second:
        assert {path.parent for path in (first, second)} == {tmp_path}
        random = [path.name.split(".")[-2] for path in (first, second)]
    assert len(set(random)) == 2 and all(len(bytes.fromhex(name)) == 8 for name in random)


@pytest.mark.parametrize("make", [Path.symlink_to, Path.hardlink_to])
def test_a_link_under_a_guessed_name_is_not_followed(make, tmp_path, monkeypatch):
    """Even were the random part known. Earlier names, of host and process alone, lead nowhere either."""
    thesis, path = tmp_path / "thesis", tmp_path / "run.json"
    thesis.write_text("years of work")
    monkeypatch.setattr(parts.secrets, "token_hex", lambda size: "0" * 2 * size)
    for end in ("part", f"{'0' * 16}.part"):
        make(tmp_path / f".run.json.{HOST}.{os.getpid()}.{end}", thesis)
    with pytest.raises(OSError, match=r"run\.json: could not be written \(File exists\)"):
        write_text(path, "{}")
    monkeypatch.undo()
    write_text(path, "{}")
    assert thesis.read_text() == "years of work" and path.read_text() == "{}" and not path.is_symlink()


def test_parts_of_dead_processes_are_dropped(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = {pid: f".a.json.{HOST}.{pid}.part" for pid in (gone.pid, os.getpid())}
    kept = [names[os.getpid()], f".a.json.another-machine.{gone.pid}.part", "kept.part", "a.json"]
    kept += [f".a.{HOST}.{gone.pid}.notes.part", f".a.{HOST}.x.part", ".mine.part"]
    for name in (*kept, names[gone.pid], f".b.{HOST}.{os.getpid()}.{'1' * 16}.part"):
        (tmp_path / name).touch()
    drop_parts(tmp_path)
    assert names_in(tmp_path) == sorted(kept)


def test_a_link_that_is_called_like_a_part_stays(tmp_path):
    (tmp_path / "thesis").touch()
    link = tmp_path / f".a.{HOST}.1.{'1' * 16}.part"
    link.symlink_to("thesis")
    drop_parts(tmp_path)
    assert link.is_symlink()


def test_a_killed_writer_leaves_parts_that_the_next_one_clears(tmp_path):
    process = writer(tmp_path)
    drop_parts(tmp_path)  # it lives
    assert len(names_in(tmp_path)) == 3
    process.kill()
    process.communicate()
    assert len(names_in(tmp_path)) == 3
    with folder_part_of(tmp_path / "b") as folder:
        (folder / "c").touch()
    assert names_in(tmp_path) == ["b"]


def test_a_writer_in_another_pid_namespace_is_let_be(tmp_path):
    """There its process has the id 1 or 2, which here is another's or nobody's."""
    process = writer(tmp_path, "unshare", "--pid", "--fork")
    if process.poll() is not None or len(names_in(tmp_path)) != 3:
        pytest.skip(f"no pid namespace can be made here: {process.communicate()[1]}")
    drop_parts(tmp_path)
    assert process.communicate("", timeout=60) == ("", "")
    assert process.returncode == 0
    assert names_in(tmp_path) == ["a.json", "b"]


def test_without_locks_a_part_stays_for_a_day(tmp_path, monkeypatch):
    def flock(file: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(parts.fcntl, "flock", flock)
    with replacing(tmp_path / "a") as part:
        drop_parts(tmp_path)
        part.write_text("whole")
    old = tmp_path / f".a.{HOST}.1.{'1' * 16}.part"
    old.touch()
    drop_parts(tmp_path)
    assert names_in(tmp_path) == [old.name, "a"]
    os.utime(old, (0, 0))
    drop_parts(tmp_path)
    assert names_in(tmp_path) == ["a"]


def test_a_part_that_is_dropped_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    real, dropped = fcntl.flock, []

    def flock(file: int, how: int) -> None:
        if not dropped:
            dropped.append(names_in(tmp_path))
            (tmp_path / dropped[0][0]).unlink()
        real(file, how)

    monkeypatch.setattr(parts.fcntl, "flock", flock)
    write_text(tmp_path / "a", "whole")
    assert dropped and names_in(tmp_path) == ["a"]


class Stopped(BaseException):
    """As a signal raises it."""


@pytest.mark.parametrize("make", [part_of, folder_part_of])
def test_a_signal_behind_any_call_leaves_nothing(make, tmp_path):
    """Where CPython looks for signals, which is behind calls and at the start of functions: each in turn raises."""
    for at in range(1000):
        seen = 0

        def profile(frame, event, _, at=at):
            nonlocal seen
            if frame.f_code.co_filename == parts.__file__ and event in ("call", "c_return"):
                seen += 1
                if seen == at + 1:
                    sys.setprofile(None)
                    raise Stopped

        stopped = False
        sys.setprofile(profile)
        try:
            with make(tmp_path / "a"):
                pass
        except Stopped:
            stopped = True
        finally:
            sys.setprofile(None)
        gc.collect()
        left = [name for name in names_in(tmp_path) if name != "a"]
        assert not left, (at, left)
        shutil.rmtree(tmp_path / "a", ignore_errors=True)
        if not stopped:
            break
    assert 8 < at < 999


def test_a_folder_is_whole_or_not_there_and_replaces_none(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), folder_part_of(out) as part:
        (part / "half").touch()
        raise KeyboardInterrupt
    assert names_in(tmp_path) == []
    (tmp_path / "out.part").mkdir()  # a user's
    (tmp_path / "out.part" / "notes").touch()
    with folder_part_of(out) as part:
        (part / "whole").touch()
    assert names_in(out) == ["whole"] and names_in(tmp_path / "out.part") == ["notes"]
    with pytest.raises(FileExistsError, match="out: is there already"), folder_part_of(out) as part:
        pass


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_the_umask_decides_who_reads_a_file(umask, mode, tmp_path):
    """safetensors makes a file of its own, for its owner alone, and puts it in the place of one that is there."""
    tensors, before = {"zeros": np.zeros(3)}, os.umask(umask)
    try:
        with replacing(tmp_path / "a.safetensors") as part:
            save_file(tensors, part)
        with folder_part_of(tmp_path / "b") as folder:
            (folder / "c").mkdir()
            save_file(tensors, folder / "c" / "d.safetensors")
        with replacing(tmp_path / "e") as part:
            part.write_text("text")
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name: S_IMODE(path.stat().st_mode) for path in files} == dict.fromkeys(
        ("a.safetensors", "d.safetensors", "e"), mode
    )
