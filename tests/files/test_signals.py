"""Commands that are stopped: one line, a status that says why, and work that goes on; alone, in a wrapper, launched."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.launching import launching
from tests.support.repository import ROOT
from tests.support.tiny_checkpoint import write_tiny_coco

N_IMAGES = 300
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHON": sys.executable}
VERB = [sys.executable, "-m", "llava_hh"]


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    """Images enough for a command to be stopped among them."""
    folder = tmp_path_factory.mktemp("coco")
    write_tiny_coco(folder, N_IMAGES)
    return folder


@pytest.fixture
def flags(tiny_checkpoint, coco, tmp_path) -> list[str]:
    return [
        *("caption", "--model", str(tiny_checkpoint), "--annotations", str(coco / "annotations")),
        *("--image-folder", str(coco / "val2014"), "--split", "val2014", "--batch-size", "1"),
        *("--out", str(tmp_path / "out")),
    ]


def started(command: list[str], **more) -> subprocess.Popen:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, "env": ENVIRONMENT}
    return subprocess.Popen(command, start_new_session=True, preexec_fn=as_from_a_terminal, **streams | more)


def as_from_a_terminal() -> None:
    """What is started behind & or by nohup ignores some signals, and so does all that it starts."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def when_work_has_begun(process: subprocess.Popen, out: Path) -> None:
    begun = time.monotonic()
    while len([*out.glob("blocks/*.json")]) < 3:
        if process.poll() is not None or time.monotonic() - begun > 120:
            process.kill()
            pytest.fail(f"{process.communicate()}")
        time.sleep(0.02)


def stopped_by(process: subprocess.Popen) -> tuple[int, list[str]]:
    _, stderr = process.communicate(timeout=120)
    return process.returncode, [line for line in stderr.splitlines() if line and " images are left" not in line]


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=lambda each: str(each),
)
def test_a_signal_is_one_line_and_nothing_is_half_written(number, status, flags, tmp_path):
    process = started([*VERB, *flags])
    when_work_has_begun(process, tmp_path / "out")
    process.send_signal(number)
    code, lines = stopped_by(process)
    assert code == status
    assert lines[-1].startswith("stopped after block ") and f" of {N_IMAGES} (" in lines[-1]
    assert lines[-1].endswith("; the same command goes on") and not any("Traceback" in line for line in lines)
    assert not [path for path in tmp_path.rglob("*") if path.name == ".lock" or path.suffix == ".part"]
    assert not (tmp_path / "out/captions.jsonl").exists()


def test_a_signal_before_the_work_begins():
    """Such as while libraries are imported."""
    code = "from llava_hh.files.signals import ending_well\nwith ending_well():\n    print(1, flush=True)\n    input()"
    process = started([sys.executable, "-c", code], stdin=subprocess.PIPE)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert stopped_by(process) == (130, ["stopped; give the same command again"])


def test_a_second_signal_does_not_disturb_the_clean_up():
    code = """
import signal, time
from llava_hh.files.signals import ending_well
with ending_well():
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.raise_signal(signal.SIGTERM)
        print("clean", flush=True)
"""
    process = started([sys.executable, "-c", code])
    assert process.stdout.readline() == "clean\n"
    assert stopped_by(process) == (130, ["stopped; give the same command again"])


def test_debug_shows_a_missing_file_with_its_traceback(tmp_path):
    command = ["score", "chair", "--captions", str(tmp_path / "none"), "--objects", str(tmp_path / "none"), "--debug"]
    process = started([*VERB, *command])
    code, lines = stopped_by(process)
    assert code == 1 and lines[-1].startswith("FileNotFoundError: ") and str(tmp_path / "none") in lines[-1]


def test_a_closed_stderr_leaves_stdout_to_the_results():
    code = (
        "from llava_hh.files.progress import announce, say; import sys; announce('a'); say('b', sys.stderr); say('c')"
    )
    process = started(["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, code])
    assert process.communicate(timeout=60)[0] == "c\n"


def test_the_last_command_of_a_wrapper_has_its_place(tiny_checkpoint, coco, tmp_path):
    """A signal to the shell alone would leave its command running."""
    profile = tmp_path / "own.sh"
    profile.write_text(f"model_path={tiny_checkpoint}\ncoco_path={coco}\nresult_path={tmp_path}/res\nbatch_size=1\n")
    wrapper = ["sh", "bash_scripts/decoding.sh", "--methods", "pai", "--limit", str(N_IMAGES)]
    process = started(wrapper, env={**ENVIRONMENT, "PROFILE": str(profile)})
    when_work_has_begun(process, tmp_path / f"res/val2014-{N_IMAGES}-seed42/greedy")
    process.terminate()
    code, lines = stopped_by(process)
    assert code == 143 and lines[-1].startswith("stopped after block ")


@pytest.mark.parametrize("launch", ["", sys.executable], ids=["alone", "launched"])
def test_a_wrapper_that_is_killed_takes_along_what_it_waits_for(launch, tiny_checkpoint, coco, tmp_path):
    """From inside another wrapper, in a step that is not the last."""
    profile = tmp_path / "own.sh"
    profile.write_text(
        f"model_path={tiny_checkpoint}\ncoco_path={coco}\nresult_path={tmp_path}/res\nbatch_size=1\n"
        f"report_images={N_IMAGES}\n"
    )
    outer = ". bash_scripts/python.sh; sh bash_scripts/decoding.sh --methods pai; echo never"
    process = started(["sh", "-c", outer], env={**ENVIRONMENT, "PROFILE": str(profile), "LAUNCH": launch})
    when_work_has_begun(process, tmp_path / f"res/val2014-{N_IMAGES}-seed42/greedy")
    process.terminate()
    code, lines = stopped_by(process)  # stderr is closed when the last of them has ended
    assert code == -signal.SIGTERM and lines[-1].startswith("stopped after block ")


def test_a_signal_in_a_finalizer_comes_again():
    code = """
import signal, time
from llava_hh.files.signals import ending_well
class Finalized:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)
with ending_well():
    Finalized()
    time.sleep(20)
"""
    assert stopped_by(started([sys.executable, "-c", code])) == (143, ["stopped; give the same command again"])


def test_under_the_launcher_there_is_one_line_too(flags, tmp_path):
    command = [sys.executable, "-m", "llava_hh.command_line.launched", *launching(2, "llava_hh", flags)]
    process = started(command)
    when_work_has_begun(process, tmp_path / "out")
    process.send_signal(signal.SIGINT)  # the launcher has a group of its own
    code, lines = stopped_by(process)
    assert code == 130
    assert [line for line in lines if "stopped" in line] == lines[-1:] and lines[-1].startswith("stopped after block ")
    assert not any("Traceback" in line for line in lines)
    assert not [
        path for path in tmp_path.rglob("*") if path.name.startswith((".lock", ".shared")) or path.suffix == ".part"
    ]


def test_under_the_launcher_there_is_a_line_before_any_process_has_begun():
    process = started([sys.executable, "-m", "llava_hh.command_line.launched", "sh", "-c", "echo ready; sleep 60"])
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert stopped_by(process) == (130, ["stopped; give the same command again"])


def test_a_launcher_that_is_not_there_is_one_line():
    process = started([sys.executable, "-m", "llava_hh.command_line.launched", "no-such-launcher"])
    assert stopped_by(process) == (127, ["error: LAUNCH: no-such-launcher: No such file or directory"])


def test_nobody_reads_what_is_printed():
    closed, other = os.pipe()
    os.close(closed)
    process = started([*VERB, "--help"], stdout=other)
    assert stopped_by(process) == (141, [])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device")
def test_a_full_stdout_is_one_line():
    with open("/dev/full", "w") as full:
        code, [line] = stopped_by(started([*VERB, "--help"], stdout=full))
    assert code == 2 and line.startswith("error: stdout: could not be written (No space left on device)")


@pytest.mark.parametrize(
    "swallowed", ["raise RuntimeError('a library says so')", "raise SystemExit(2)", "raise OSError(5, 'x')"]
)
def test_what_a_library_makes_of_it_is_a_stop_all_the_same(swallowed):
    code = f"""
import signal
from llava_hh.command_line.script import errors_in_one_line
from llava_hh.files.signals import ending_well
with ending_well(), errors_in_one_line(False):
    try:
        signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt:
        {swallowed}
"""
    assert stopped_by(started([sys.executable, "-c", code])) == (143, ["stopped; give the same command again"])
