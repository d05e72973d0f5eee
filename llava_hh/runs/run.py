"""A run's folder: settings that it is held to, provenance, and several processes that agree on both."""

import json
import os
import platform
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from llava_hh.files.files import is_ours, read_json, write_json
from llava_hh.files.parts import drop_parts, part_of
from llava_hh.files.processes import processes
from llava_hh.runs.blocks import Run
from llava_hh.runs.settings import PLACES, Settings, differences

RESULT_SUFFIXES = (".jsonl", ".safetensors", ".md", ".png", ".pdf")  # of files that do not say who wrote them
PREPARED = ("run.json", "ground_truth.json", "log.jsonl")  # files that stand in a folder before any work is finished
MADE_BY = ("commit", "dirty", "versions", "machine")
SHARED_WITHIN = 10.0  # seconds
RECORDED_PACKAGES = ("torch", "transformers", "tokenizers", "nltk", "pillow", "numpy")


def share_out(items: Sequence, work: Callable[[Sequence], list], by_store: bool = False) -> list:
    """The JSON-ready results of `work` over slices of `items`, one per process, in order and for every process.

    Args:
        by_store: by the launcher's store, so that a trainer can still make the process group that it needs.
    """
    team = processes()
    first, last = (len(items) * rank // team.count for rank in (team.rank, team.rank + 1))
    put_together = team.exchange if by_store else team.gather
    parts = put_together(json.dumps(work(items[first:last])))
    return [result for part in parts for result in json.loads(part)]


def provenance() -> dict:
    """Command line, commit, versions and machine of this process.

    `commit` and `dirty` (whether files differ from the commit) are None where git is missing, refuses the checkout or
    does not know these files, as where the package is installed inside another repository.
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
    """As `make_folder`, for a result file that may lie beside the files of others.

    Raises:
        FileExistsError: it is there and not of this package, or its table or figure is there without it.
        OSError: its folder cannot be written.
    """
    if os.path.lexists(file) and not is_ours(file):
        raise FileExistsError(f"{file}: is there already, and no run of ours wrote it; move it or choose another --out")
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

    A run that finished nothing binds nothing: where no result lies beside it, its run.json counts as none.

    Args:
        unknown: fields that are not known yet, such as the model that is loaded later.

    Raises:
        ValueError: it was begun with others; names those that differ. Or blocks are there without a run.json
            and do not say that they were made with these.
    """
    record = folder / "run.json"
    if not record.exists():
        if not unknown and (unlike := Run(folder, settings_sha256=settings.digest()).unlike_block()):
            raise ValueError(
                f"{record}: not there, and {unlike} does not say that it was made with these settings; choose another "
                "--out or delete the folder"
            )
        return None
    before = read_json(record)
    times = (before.get("seconds", ""), before.get("seconds_before"))
    if not isinstance(before.get("settings"), dict) or not all(isinstance(each, float | int | None) for each in times):
        raise ValueError(f"{record}: not that of a run, it is damaged; choose another --out or delete the folder")
    if changed := differences(before["settings"], settings, {*settings.free(), *unknown}):
        if not any(_is_result(path) for path in folder.rglob("*")):
            return None
        raise ValueError(
            f"{record}: begun with other settings: {'; '.join(changed)}. Choose another --out or delete the folder"
        )
    return before


def _is_result(path: Path) -> bool:
    """Whether a file in a run's folder is work that another run would mix with its own."""
    return path.is_file() and not path.name.startswith(".") and path.name not in PREPARED


@contextmanager
def start_run(folder: Path, settings: Settings, manifest: Sequence[int] = ()) -> Iterator[Run]:
    """Open the folder of a run, held against other runs until the context is left.

    Its run.json holds settings, provenance, the image ids and, at the end, the seconds and by what each block was made;
    until then `seconds` is null, and what earlier runs took is `seconds_before`.

    Args:
        settings: a folder with results of others is refused. Free fields may differ, and the number of processes.
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
    """See that all processes of a run have the same settings and the same folder, before any work.

    Raises:
        ValueError: other settings in some process.
        OSError: some process writes into another folder.
    """
    team = processes()
    if team.count == 1:
        return
    mark, token = folder / f".rank_{team.rank}_of_{team.count}", secrets.token_hex(8)
    mark.write_text(token)  # a mark may be left there of an earlier run
    try:
        own = {"settings": settings.record(), "host": platform.node(), "token": token}
        others = [json.loads(text) for text in team.exchange(json.dumps(own))]
        for rank, other in enumerate(others):
            if changed := differences(other["settings"], settings, free=PLACES):
                raise ValueError(
                    f"process {rank} on {other['host']} has other settings than process {team.rank} here: "
                    f"{'; '.join(changed)}. All processes need the same flags, variables and files"
                )
        marks = {rank: folder / f".rank_{rank}_of_{team.count}" for rank in range(team.count)}
        unseen = [rank for rank, path in marks.items() if not _appears(path, others[rank]["token"])]
        if any(json.loads(text) for text in team.exchange(json.dumps(unseen))):
            named = ", ".join(f"{rank} on {others[rank]['host']}" for rank in unseen) or "another one"
            raise OSError(
                f"{folder}: not the same folder in all processes (see process {named}); share it, or choose another"
            )
    finally:
        team.exchange("")  # every process has looked
        mark.unlink(missing_ok=True)


def _appears(path: Path, text: str) -> bool:
    """Whether a file of this text is there; a shared file system may show it late."""
    begun = time.monotonic()
    while not path.is_file() or path.read_text() != text:
        if time.monotonic() - begun > SHARED_WITHIN:
            return False
        os.listdir(path.parent)  # renews what the client of a network file system has kept
        time.sleep(0.1)
    return True
