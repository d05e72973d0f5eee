"""A fault of ours for every section of `python -m tests.faults`: the section has to see it."""

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
from PIL import ImageFile

from llava_hh.command_line import script
from llava_hh.files import files as files_of_runs
from llava_hh.files import locks
from llava_hh.files import signals as signals_of_runs
from llava_hh.finetuning import checkpoints
from llava_hh.models.loading import Loading
from llava_hh.report.folder import ResultFolder
from llava_hh.runs import blocks, identity
from llava_hh.runs import run as runs
from tests.support.repository import ROOT

from . import changes, code, environment, foreign, material, pages, ranks, shell, signals, state, training

Patches = Iterator[object]


def kills(folder: Path) -> Patches:
    """Finished blocks are made again."""
    yield patch.object(blocks.Run, "_is_finished", lambda *_: False)


def damages(folder: Path) -> Patches:
    """An error does not say which file is damaged."""
    yield patch.object(script, "describe_failure", lambda _: "a file is damaged")


def images(folder: Path) -> Patches:
    """What is cut off is filled with grey."""
    yield patch.object(ImageFile, "LOAD_TRUNCATED_IMAGES", True)


def disk(folder: Path) -> Patches:
    """Files are written under their own names."""
    yield patch.object(files_of_runs, "part_of", nullcontext)


def lock(folder: Path) -> Patches:
    """Nobody looks whether a folder is locked."""
    yield patch.object(locks, "_locked", locks._opened)


def clock(folder: Path) -> Patches:
    """Seconds are those of the time of day."""
    yield patch.object(runs, "time", SimpleNamespace(**{**vars(time), "monotonic": lambda: time.time()}))


def of_training(folder: Path) -> Patches:
    """A training that goes on believes its checkpoints."""
    whole = training.judge

    def judge(*args: object) -> str | None:
        with patch.object(checkpoints, "damage_of", lambda *_: None):
            return whole(*args)

    yield patch.object(training, "judge", judge)


def of_state(folder: Path) -> Patches:
    """Files are known by their size."""
    yield patch.object(identity, "file_sha256", lambda path: str(path.stat().st_size))
    yield patch.object(state, "CHANGES", [change for change in changes.CHANGES if change.make is changes.weights])
    yield _only(state, "caption", "attribute")


def of_ranks(folder: Path) -> Patches:
    """Processes do not compare their settings."""
    yield patch.object(runs, "agree", lambda *_: None)
    yield patch.object(ranks, "CASES", [ranks.other_settings])
    yield patch.object(ranks, "NAMED", {"DTYPE": ("dtype",)})
    yield _only(ranks, "caption")


def of_code(folder: Path) -> Patches:
    """Weights are unpickled."""
    whole = torch.load
    yield patch.object(torch, "load", lambda *args, **flags: whole(*args, **{**flags, "weights_only": False}))
    yield patch.object(code, "ATTACKS", (code.pickled_weights,))


def of_signals(folder: Path) -> Patches:
    """Signals are ignored."""
    ignored = {"signal": lambda number, _: signal.signal(number, signal.SIG_IGN)}
    yield patch.object(signals_of_runs, "signal", SimpleNamespace(**{**vars(signal), **ignored}))
    yield patch.object(signals, "SOON", 0.2)
    yield _only(signals, "attribute")


def of_foreign(folder: Path) -> Patches:
    """Nobody asks whose results are in a folder."""
    yield patch.object(runs, "RESULT_SUFFIXES", ())
    yield patch.object(foreign, "NAMES", ("captions.jsonl",))
    yield patch.object(foreign, "PLACES", (foreign.a_file,))
    yield _only(foreign, "caption")


def of_environment(folder: Path) -> Patches:
    """Variables are passed over."""
    yield patch.object(Loading, "from_environment", classmethod(lambda cls: cls()))
    yield patch.object(environment, "KINDS", (environment.variables,))
    yield patch.object(environment, "VARIABLES", {"DTYPE": ("nothing",)})


def wrappers(folder: Path) -> Patches:
    """Wrappers look for the repository where their link lies."""
    copy = folder / "repository"
    shutil.copytree(ROOT / "bash_scripts", copy / "bash_scripts")
    for path in (copy / "bash_scripts").glob("*.sh"):
        path.write_text(path.read_text().replace('"$(readlink -f "$0")"', '"$0"'))
    yield patch.object(shell, "OF_PROFILES", [copy / "bash_scripts" / "pope.sh"])
    yield patch.object(shell, "ROOT", copy)


def report(folder: Path) -> Patches:
    """A damaged file is an error of the whole page."""
    yield patch.object(ResultFolder, "each", lambda self, paths, make: [make(path) for path in paths])
    yield patch.object(pages, "CHANGES", (pages.another_type,))


PLANTED: dict[str, Callable[[Path], Patches]] = {
    "kills": kills,
    "damages": damages,
    "images": images,
    "disk": disk,
    "lock": lock,
    "clock": clock,
    "training": of_training,
    "state": of_state,
    "ranks": of_ranks,
    "code": of_code,
    "signals": of_signals,
    "foreign": of_foreign,
    "environment": of_environment,
    "wrappers": wrappers,
    "report": report,
}


def _only(section: object, *names: str) -> object:
    """Of all scripts these alone."""
    return patch.object(
        section, "scripts", lambda folder: [own for own in material.scripts(folder) if own.name in names]
    )


@contextmanager
def planted(section: str, folder: Path) -> Iterator[None]:
    """The fault of a section, while the block is open."""
    with ExitStack() as stack:
        for each in PLANTED[section](folder):
            stack.enter_context(each)
        yield
