"""Result folders at random: disks that fill up, commands that meet in one folder, clocks that jump."""

import contextlib
import ctypes
import io
import os
import random
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from llava_hh.command_line.script import errors_in_one_line
from llava_hh.runs import run as runs
from llava_hh.runs.run import start_run
from tests.support.reproducing import reproduce
from tests.support.seeded import Seeded

NEW_MOUNTS = 0x00020000  # CLONE_NEWNS


def disk(folder: Path, n: int, seed: int) -> Iterator[tuple[str, str | None]]:
    """Runs on a small file system, or under a limit of file size: refused in one line, finished after there is room."""
    kinds = [_limited_files] if _mount_problem(folder) else [_limited_files, _small_disk]
    yield from _cases(folder, n, seed, "disk", kinds)


def lock(folder: Path, n: int, seed: int) -> Iterator[tuple[str, str | None]]:
    """Several processes in one folder: one at a time, whatever becomes of it."""
    yield from _cases(folder, n, seed, "lock", [_one_after_another, _all_at_once])


def clock(folder: Path, n: int, seed: int) -> Iterator[tuple[str, str | None]]:
    """The time of day jumps: seconds stay what they are, and no estimate is negative."""
    yield from _cases(folder, n, seed, "clock", [_run_under_jumps, _reproduce_under_jumps])


Case = Callable[[Path, random.Random], str | None]


def _cases(folder: Path, n: int, seed: int, section: str, kinds: list[Case]) -> Iterator[tuple[str, str | None]]:
    for number in range(n):
        rng = random.Random(f"{seed}, {section}, {number}")
        case, own = rng.choice(kinds), folder / f"{section}_{number:05d}"
        own.mkdir(parents=True)
        trouble = case(own, rng)
        yield case.__name__.strip("_").replace("_", " "), trouble and f"case {number}: {trouble}"


def _work(folder: Path, seed: int) -> str:
    """A run of a few blocks with arrays; what it says on stderr, which is empty if it went through."""
    rng, said = random.Random(seed), io.StringIO()
    samples = [{"image_id": number} for number in range(rng.randint(1, 6))]
    size, width = rng.randint(1, 3), rng.randint(1, 20_000)
    with _errors_into(said), start_run(folder, Seeded(seed)) as run:
        for number, block in run.blocks(samples, size, "faults"):
            rows = [{**sample, "text": f"{sample['image_id']}" * (width // 4)} for sample in block]
            run.finish_block(number, block, rows, {"a": np.full((len(block), width), number, dtype=np.float32)})
        run.write_rows("rows.jsonl")
    return "\n".join(line for line in said.getvalue().splitlines() if line.startswith(("error", "Traceback")))


@contextlib.contextmanager
def _errors_into(file: io.StringIO) -> Iterator[None]:
    """What a script does with errors, its exit left out."""
    with contextlib.redirect_stderr(file), contextlib.suppress(SystemExit), errors_in_one_line(False):
        yield


def _contents(folder: Path) -> dict[str, bytes]:
    """All files but run.json, whose times differ."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "run.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _in_child(work: Callable[[], str | None]) -> str | None:
    """What `work` returns in a forked process, whose limits and mounts end with it."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            answer = work() or ""
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        with os.fdopen(write, "w") as file:
            file.write(answer)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        answer = file.read()
    os.waitpid(child, 0)
    return answer or None


def _refused_then_finished(folder: Path, seed: int, make_room: Callable[[], None]) -> str | None:
    """Run where there is too little room, or enough; then once more with room."""
    first = _work(folder, seed)
    known = re.fullmatch(rf"error: (--out )?{re.escape(str(folder))}.*: (could not|cannot) be written .*", first)
    if first and not known:
        return f"not one line that names the file: {first!r}"
    if parts := [path.name for path in folder.rglob(".*")]:
        return f"left behind: {parts}"
    whole = {path: path.stat().st_mtime_ns for path in folder.glob("blocks/*.json")}
    make_room()
    if second := _work(folder, seed):
        return f"did not go on: {second}"
    if [path for path, when in whole.items() if path.stat().st_mtime_ns != when]:
        return "a finished block was made again"
    reference = folder.parent / "reference"
    if os.path.ismount(folder.parent):
        reference = folder.parent.parent / "reference"
    _work(reference, seed)
    return None if _contents(folder) == _contents(reference) else "other files than those of an undisturbed run"


def _limited_files(folder: Path, rng: random.Random) -> str | None:
    limit, seed = rng.choice((0, 1, rng.randint(1, 3000), rng.randint(1, 200_000))), rng.randrange(10**6)

    def work() -> str | None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        room = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        return _refused_then_finished(folder / "run", seed, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, room))

    return _in_child(work)


def _small_disk(folder: Path, rng: random.Random) -> str | None:
    disk, size, seed = folder / "disk", rng.randint(1, 60) * 4, rng.randrange(10**6)
    disk.mkdir()

    def work() -> str | None:
        _mount(disk, f"size={size}k")
        return _refused_then_finished(disk / "run", seed, lambda: _mount(disk, "remount,size=64m"))

    return _in_child(work)


def _mount(folder: Path, options: str) -> None:
    """A file system in memory, seen by this process alone."""
    if "remount" not in options:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(NEW_MOUNTS):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        subprocess.run(["mount", "--make-rprivate", "/"], check=True, capture_output=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True, capture_output=True)


def _mount_problem(folder: Path) -> str | None:
    probe = folder / "probe"
    probe.mkdir(parents=True, exist_ok=True)
    return _in_child(lambda: _mount(probe, "size=64k"))


def _hold(folder: Path, begun: int, end: int) -> None:
    """Be in the folder until `end` is closed; tell `begun` of it."""
    with _errors_into(io.StringIO()), start_run(folder, Seeded(1)):
        os.write(begun, b"x")
        os.read(end, 1)


def _one_after_another(folder: Path, rng: random.Random) -> str | None:
    """A holder, a second process beside it, then the holder's end: by itself or killed; and a third."""
    begun_read, begun = os.pipe()
    end, end_write = os.pipe()
    holder = os.fork()
    if holder == 0:
        os.close(end_write)
        _hold(folder, begun, end)
        os._exit(0)
    os.read(begun_read, 1)
    before = {path.name for path in folder.iterdir()}
    second = _in_child(lambda: _work(folder, 1)) or ""
    after = {path.name for path in folder.iterdir()}
    if rng.random() < 0.5:
        os.kill(holder, signal.SIGKILL)
    else:
        os.close(end_write)
    os.waitpid(holder, 0)
    third = _in_child(lambda: _work(folder, 1))
    for number in (begun_read, begun, end):
        os.close(number)
    with contextlib.suppress(OSError):
        os.close(end_write)
    if not second.startswith(f"error: {folder}: in use by process {holder} on ") or "\n" in second:
        return f"the second was not told of the holder {holder}: {second!r}"
    if before != after:
        return f"the second left {after - before}"
    return f"the third was refused: {third}" if third else None


def _all_at_once(folder: Path, rng: random.Random) -> str | None:
    """Several begin together; whoever is in the folder must be alone there."""
    inside, children = folder / "inside", []
    for _ in range(rng.randint(2, 4)):
        pause, stay = rng.random() / 50, rng.random() / 50
        child = os.fork()
        if child == 0:
            status = 0
            time.sleep(pause)
            with _errors_into(io.StringIO()), start_run(folder / "run", Seeded(1)):
                try:
                    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    status = 3
                time.sleep(stay)
                inside.unlink(missing_ok=True)
                status = status or 1
            os._exit(status)
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if 3 in statuses:
        return "two were in the folder at once"
    if 1 not in statuses:
        return "all were refused"
    return "a lock was left" if (folder / "run" / ".lock").exists() else None


def _run_under_jumps(folder: Path, rng: random.Random) -> str | None:
    """time.time gives what it likes; a run is begun, finished and begun again."""
    seed = rng.randrange(10**6)

    def work() -> str | None:
        time.time = lambda: rng.uniform(-1e9, 4e9)
        begun = time.monotonic()
        wrong = _work(folder / "run", seed) or _work(folder / "run", seed)
        seconds = runs.read_json(folder / "run" / "run.json")["seconds"]
        if not 0 <= seconds <= time.monotonic() - begun + 0.2:
            return f"run.json says {seconds} seconds"
        return wrong

    return _in_child(work)


def _reproduce_under_jumps(folder: Path, rng: random.Random) -> str | None:
    """Each step begins and ends at any time of day, and the record holds what any clock may have left."""
    jump = rng.choice((60, 10**9))
    clock = f"(n * {rng.randrange(1, 10**6)} * 7919 % 1000003 - 500000) * {jump}"
    record = "".join(f"{step} {rng.choice(('finished', '-7', '61', ''))}\n" for step in ("attribute", "pope"))
    said, kept = reproduce(folder, clock, record)
    for line in said:
        if "-" in line.split("(", 1)[1] or re.search(r"\b(nan|inf)\b", line):
            return f"no sensible estimate: {line}"
    if wrong := [line for line in kept[2:] if not line.split()[1].removeprefix("finished").isdecimal()]:
        wrong = [line for line in wrong if line.split()[1] not in ("begun", "finished")]
    return f"recorded {wrong[0]}" if wrong else None
