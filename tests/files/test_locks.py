"""A folder is held by one run at a time, whatever becomes of the run."""

import errno
import fcntl
import os
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from llava_hh.files import locks
from llava_hh.runs.run import start_run
from tests.support.repository import ROOT
from tests.support.seeded import Seeded

HOLDER = """
import sys
from pathlib import Path
from llava_hh.command_line.script import errors_in_one_line
from llava_hh.runs.run import start_run
from llava_hh.runs.settings import Settings
with errors_in_one_line(False), start_run(Path(sys.argv[1]), Settings()):
    print("held", flush=True)
    sys.stdin.read()
"""


def start(folder: Path, *flags: str, **variables: str) -> subprocess.Popen:
    """Another process with a run in the folder, until its stdin is closed."""
    command = [sys.executable, "-c", HOLDER, str(folder), *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, env=environment, text=True, **pipes)


def holder(folder: Path, *flags: str) -> subprocess.Popen:
    """One that is in the folder by now, or has been refused."""
    process = start(folder, *flags)
    process.stdout.readline()
    return process


def test_a_second_run_is_told_who_holds_the_folder(tmp_path):
    first = holder(tmp_path, "--prompt", "two\nlines")
    second = holder(tmp_path)
    error = second.communicate(timeout=60)[1]
    assert second.returncode == 2
    date = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    who = rf"process {first.pid} on {re.escape(platform.node())} since {date} \(-c \S+ --prompt 'two lines'\)"
    expected = rf"error: {re.escape(str(tmp_path))}: in use by {who}; wait for it or choose another --out\n"
    assert re.fullmatch(expected, error)
    first.communicate(timeout=60)
    assert first.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json"]


def test_a_killed_holder_holds_nothing(tmp_path):
    first = holder(tmp_path)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    assert (tmp_path / locks.LOCK).exists()
    with start_run(tmp_path, Seeded(1)):
        assert f"process {os.getpid()} " in (tmp_path / locks.LOCK).read_text()
        assert holder(tmp_path).wait(60) == 2
    assert not (tmp_path / locks.LOCK).exists()


def test_a_run_that_fails_lets_go_and_nested_runs_are_free(tmp_path):
    with pytest.raises(KeyboardInterrupt), start_run(tmp_path, Seeded(1)):
        with start_run(tmp_path / "part", Seeded(1)):
            pass
        raise KeyboardInterrupt
    with start_run(tmp_path, Seeded(1)):
        pass


def test_a_lock_that_its_holder_removed_meanwhile_is_not_taken(tmp_path, monkeypatch):
    """The file is opened, its holder ends and removes it, a third process makes and locks a new one."""
    path = tmp_path / locks.LOCK
    path.write_text("process 1")
    taken = []

    def flock(file, how):
        if not taken:
            path.unlink()
            taken.append(os.open(path, os.O_RDWR | os.O_CREAT))
            os.write(taken[0], b"process 2")
            real(taken[0], fcntl.LOCK_EX)
        real(file, how)

    real = fcntl.flock
    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with pytest.raises(OSError, match="in use by process 2;"), locks.hold(tmp_path):
        pass
    os.close(taken[0])


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK])
def test_without_locks_a_run_goes_on_and_warns_once(number, tmp_path, monkeypatch, capsys):
    def flock(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    locks._warn.cache_clear()
    for name in ("a", "b"):
        with start_run(tmp_path / name, Seeded()):
            pass
    assert capsys.readouterr().err.count("warning: result folders cannot be locked") == 1


def test_processes_of_one_run_share_the_folder_and_leave_together(tmp_path):
    """Beside a holder two ranks stop, with one line between them and before they write; later both are let in."""
    first = holder(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*")}
    for held in (True, False):
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # the launcher's
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2"}
        environment["TORCHELASTIC_USE_AGENT_STORE"] = "True"
        ranks = [start(tmp_path, RANK=str(rank), **environment) for rank in (1, 0)]
        said, errors = zip(*(rank.communicate(timeout=120) for rank in ranks), strict=True)
        assert [rank.returncode for rank in ranks] == [2 * held] * 2, errors
        assert said == (("", "") if held else ("held\n", "held\n"))
        lines = [line for error in errors for line in error.splitlines() if line.startswith("error")]
        if held:
            assert len(lines) == 1
            assert lines[0].startswith(f"error in process 0 of 2: {tmp_path}: in use by process {first.pid} on ")
            assert {path: path.read_bytes() for path in tmp_path.rglob("*")} == before
            first.communicate(timeout=60)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
