"""The folder of a run: its settings, its provenance, and several processes that agree on both."""

import json
import os
import platform
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from llava_hh.files.files import is_ours, read_json, refuse_foreign, write_json
from llava_hh.files.parts import drop_parts, part_of
from llava_hh.files.processes import processes
from llava_hh.runs.blocks import Run
from llava_hh.runs.settings import LOCAL_PATHS, Settings, differences

RESULT_SUFFIXES = (".jsonl", ".safetensors", ".md", ".png", ".pdf")  # of files that do not say who wrote them
PREPARED = ("run.json", "ground_truth.json", "log.jsonl")  # files that stand in a folder before any work is finished
MADE_BY = ("commit", "dirty", "versions", "machine")
SHARED = ".shared-"  # how marks begin by which processes see that they share a folder
SHARED_WITHIN = 10.0  # seconds
RECORDED_PACKAGES = ("torch", "transformers", "tokenizers", "nltk", "pillow", "numpy")


def share_out(items: Sequence, work: Callable[[Sequence], list]) -> list:
    """The JSON-ready results of `work` over slices of `items`, one per process, in order and for every process."""
    team = processes()
    if team.count == 1:
        return work(items)
    first, last = (len(items) * rank // team.count for rank in (team.rank, team.rank + 1))
    texts = team.exchange(json.dumps(work(items[first:last])))
    return [result for text in texts for result in json.loads(text)]


def provenance() -> dict:
    """Command line, commit, versions and machine of this process.

    `commit` and `dirty` (whether files differ from the commit) are None where git is missing or refuses the checkout.
    They are None too where git does not know these files: the package may be installed inside another repository.
    """

    def git(*words: str) -> str | None:
        command = ["git", "-C", Path(__file__).parent, *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    def version_of(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    is_known = git("ls-files", "--error-unmatch", Path(__file__).name) is not None
    commit = git("rev-parse", "HEAD") if is_known else None
    changes = git("status", "--porcelain") if commit else None
    return {
        "argv": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit,
        "dirty": None if changes is None else bool(changes),
        "versions": {"python": platform.python_version(), **{name: version_of(name) for name in RECORDED_PACKAGES}},
        "processes": processes().count,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
    }


def make_folder(folder: Path) -> None:
    """Make a result folder and see that it can be written, before hours of work go into it; clear up after kills.

    Raises:
        FileExistsError: results are there, and none of them says that this package wrote it.
        OSError: it cannot be written; one line that names the folder.
    """
    # names that begin with a dot are of systems and tools, such as the "._" files of macOS
    files = [path for path in folder.glob("[!.]*") if path.suffix in RESULT_SUFFIXES and path.is_file()]
    if files and not any(is_ours(path) for ours in ("*.json", "blocks/*.json") for path in folder.glob(ours)):
        what = f"{min(files).name} is there, and no run of ours wrote it"
        raise FileExistsError(f"--out {folder}: {what}; choose another folder")
    _try_writing(folder)


def make_parent(file: Path) -> None:
    """Make the folder of a result file, which may lie beside the files of others, and see that it can be written.

    Raises:
        FileExistsError: it is there and not of this package, or its table or figure is there without it.
        OSError: its folder cannot be written.
    """
    refuse_foreign(file)
    beside = [path for ending in (".md", ".png", ".pdf") if (path := file.with_suffix(ending)).exists()]
    if beside and not file.exists():
        raise FileExistsError(f"{beside[0]}: is there without {file.name}; move it or choose another --out")
    _try_writing(file.parent)


def _try_writing(folder: Path) -> None:
    try:
        with part_of(folder / "probe"):
            pass
    except OSError as error:
        raise OSError(f"--out {folder}: cannot be written ({error.strerror}); choose another folder") from None
    drop_parts(folder)


def begun_run(folder: Path, settings: Settings, unknown: Sequence[str] = ()) -> dict | None:
    """The run.json of a folder in which a run was begun with these settings, None where none was.

    A run.json with no result beside it is ignored: its settings may still change.

    Args:
        unknown: fields that are not known yet, such as the model that is loaded later.

    Raises:
        ValueError: it was begun with other settings, which the message names; or there are blocks without a run.json
            that do not say that they were made with these settings.
    """
    record = folder / "run.json"
    if not record.exists():
        if not unknown and (unlike := Run(folder, settings_sha256=settings.digest()).unlike_block()):
            what = f"{record}: not there, and {unlike} does not say that it was made with these settings"
            raise ValueError(f"{what}; choose another --out or delete the folder")
        return None
    before = read_json(record)
    times = (before.get("seconds", ""), before.get("seconds_before"))
    if not isinstance(before.get("settings"), dict) or not all(isinstance(took, float | int | None) for took in times):
        raise ValueError(f"{record}: not that of a run, it is damaged; choose another --out or delete the folder")
    if changed := differences(before["settings"], settings, {*settings.free(), *unknown}):
        if not any(path.is_file() and path.name not in PREPARED for path in folder.rglob("[!.]*")):
            return None
        why = f"begun with other settings: {'; '.join(changed)}"
        raise ValueError(f"{record}: {why}. Choose another --out or delete the folder")
    return before


@contextmanager
def start_run(folder: Path, settings: Settings, manifest: Sequence[int] = ()) -> Iterator[Run]:
    """Open the folder of a run, held against other runs until the context is left.

    Its run.json holds settings, provenance and the image ids; at the end also the seconds, and what made the blocks.
    Until then `seconds` is null, and `seconds_before` is the time of earlier commands.

    Args:
        settings: a folder with results of other settings is refused, unless only free fields differ.
    Raises:
        ValueError: naming the settings that differ, from those of the folder or between processes.
        OSError: the folder cannot be written, another run is in it, or the processes do not share it.
    """
    make_folder(folder)
    record = folder / "run.json"
    team = processes()
    with team.hold(folder):
        agree(folder, settings)
        before = begun_run(folder, settings)
        spent = (before or {}).get("seconds") or (before or {}).get("seconds_before") or 0.0
        made_by = provenance()
        content = {"settings": settings.record(), **made_by, "image_ids": list(manifest)}
        if team.is_main:
            write_json(record, {**content, "seconds": None, "seconds_before": spent})
        begun = time.monotonic()
        run = Run(folder, {name: made_by[name] for name in MADE_BY}, settings.digest())
        yield run
        if team.is_main:
            seconds = round(spent + time.monotonic() - begun, 1)
            write_json(record, {**content, "seconds": seconds, "made": run.provenance_of_blocks()})


def agree(folder: Path, settings: Settings) -> None:
    """Check that all processes of a run have the same settings and the same folder, before any work.

    Raises:
        ValueError: a process has other settings.
        OSError: a process writes into another folder.
    """
    team = processes()
    if team.count == 1:
        return
    own = folder / f"{SHARED}{secrets.token_hex(8)}"
    os.close(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644))
    try:
        identity = {"settings": settings.record(), "host": platform.node(), "mark": own.name}
        others = [json.loads(text) for text in team.exchange(json.dumps(identity))]
        marks = [folder / other["mark"] for other in others]
        if team.is_main:
            for left in {*folder.glob(f"{SHARED}*")} - {*marks}:  # of runs that were killed
                if re.fullmatch("[0-9a-f]{16}", left.name.removeprefix(SHARED)) and not left.is_symlink():
                    with suppress(OSError):
                        left.unlink()
        for rank, other in enumerate(others):
            if changed := differences(other["settings"], settings, free=LOCAL_PATHS):
                what = f"process {rank} on {other['host']} has other settings than process {team.rank} here"
                needed = "All processes need the same flags, variables and files"
                raise ValueError(f"{what}: {'; '.join(changed)}. {needed}")
        sees = team.exchange("yes" if all(map(_appears, marks)) else "no")
        if blind := [f"{rank} on {others[rank]['host']}" for rank, answer in enumerate(sees) if answer == "no"]:
            what = f"not the same folder in all processes (see process {', '.join(blind)})"
            raise OSError(f"{folder}: {what}; share it, or choose another")
    finally:
        team.exchange("")  # every process has looked
        own.unlink(missing_ok=True)


def _appears(path: Path) -> bool:
    """Whether a file is there; a shared file system may show it late."""
    begun = time.monotonic()
    while not path.is_file():
        if time.monotonic() - begun > SHARED_WITHIN:
            return False
        os.listdir(path.parent)  # renews what the client of a network file system has kept
        time.sleep(0.1)
    return True
