"""Variables, limits, streams and encodings at random: the files of an undisturbed run, or one line of error."""

import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.support.repository import ROOT

from .children import run_to_the_end
from .kills import contents, difference, prepare, undisturbed
from .material import Script, scripts

VARIABLES = {
    "HOME": ("/nonexistent", "", "/proc"),
    "TMPDIR": ("/nonexistent", ""),
    "PATH": ("", "/nonexistent"),
    "TERM": ("dumb", "", "xterm"),
    "COLUMNS": ("0", "-1", "x", "7"),
    "NO_COLOR": ("1",),
    "LLAVA_HH_ON_TERMINAL": ("1",),
    "GIT_DIR": ("/nonexistent",),
    "DTYPE": ("", "float32", "int8", "nothing"),
    "DEVICE_MAP": ("", "cpu", "nowhere"),
    "BITS": ("", "3", "x"),
    "RANK": ("x", "1", ""),
    "WORLD_SIZE": ("1", "0", "x", ""),
    "TOKENIZERS_PARALLELISM": ("true", "x"),
}
WRONG = {"DTYPE": ("int8", "nothing"), "DEVICE_MAP": ("nowhere",), "BITS": ("3", "x")}  # never work
RANKS = {"RANK", "WORLD_SIZE"}  # one without the other is refused
LOCALES = ({"LC_ALL": "POSIX"}, {"LC_ALL": "C.UTF-8"}, {"LC_ALL": "xx_XX"}, {"PYTHONIOENCODING": "ascii"})
LOCALES += ({"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
LOCALES += ({"HF_HOME": "/proc/x"}, {"MPLCONFIGDIR": "/proc/x"}, {"TZ": "Nowhere/City"}, {"XDG_CACHE_HOME": "/proc/x"})
NAMES = ("café".encode(), b"caf\xe9", "犬 ☕".encode(), b"a\nb", b"\x1b[31m", b"a b", b"-x")
STREAMS = ("", "<&-", ">&-", "2>&-", ">&- 2>&-", "</dev/null")


def run(folder: Path, n: int, seed: int) -> Iterator[tuple[str, str | None]]:
    """A short script with one to three variables, under a limit, or a light one with odd streams, locale and names."""
    prepare(folder)
    [script] = [script for script in scripts(folder) if script.name == "caption"]
    expected, _ = undisturbed(script, folder / "out", folder / "log")
    for number in range(n):
        rng = random.Random(f"{seed}, environment, {number}")
        kind = rng.choice(KINDS)
        trouble = kind(folder, script, expected, rng)
        yield kind.__name__.replace("_", " "), trouble and f"case {number}: {trouble}"


def variables(folder: Path, script: Script, expected: dict[str, str], rng: random.Random) -> str | None:
    chosen = {name: rng.choice(VARIABLES[name]) for name in rng.sample(sorted(VARIABLES), rng.randint(1, 3))}
    trouble = compare(folder, script, script.main, expected, chosen)
    wrong = [name for name, values in WRONG.items() if chosen.get(name) in values]
    if not trouble and (folder / "out" / "captions.jsonl").exists() == bool(wrong):
        trouble = f"{wrong} passed over" if wrong else f"refused: {(folder / 'log').read_text()[-300:]}"
    if trouble and "refused" in trouble and RANKS & chosen.keys():
        return None
    return trouble and f"{chosen}: {trouble}"


def limits(folder: Path, script: Script, expected: dict[str, str], rng: random.Random) -> str | None:
    which, value = rng.choice((("NOFILE", 64), ("NOFILE", 20), ("CORE", 0), ("umask", 0o077)))

    def limited(flags: Sequence[str]) -> None:
        if which == "umask":
            os.umask(value)
        else:
            number = getattr(resource, f"RLIMIT_{which}")
            resource.setrlimit(number, (value, resource.getrlimit(number)[1]))
        script.main(flags)

    trouble = compare(folder, script, limited, expected, {})
    return trouble and f"{which} {value}: {trouble}"


def an_odd_folder(folder: Path, script: Script, expected: dict[str, str], rng: random.Random) -> str | None:
    name = os.fsdecode(rng.choice(NAMES))
    trouble = compare(folder, script, script.main, expected, {}, folder / f"odd {name}")
    return trouble and f"{name!r}: {trouble}"


def compare(
    folder: Path,
    script: Script,
    main: Callable,
    expected: dict[str, str],
    around: dict[str, str],
    out: Path | None = None,
) -> str | None:
    out = out or folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    ending = run_to_the_end(main, (*script.flags, "--out", out), folder / "log", variables=around)
    if "Traceback" in ending.output:
        return f"a traceback: {ending.output[-300:]}"
    if ending.code == 2 and ending.error:
        return f"refused after work: {ending.error}" if list(out.glob("blocks/*.json")) else None
    return f"exit {ending.code}: {ending.output[-300:]}" if ending.code else difference(expected, contents(out, script))


def names_and_streams(folder: Path, script: Script, expected: dict[str, str], rng: random.Random) -> str | None:
    """Scoring two captions, in a new interpreter."""
    base = os.fsencode(folder) + b"/names"
    shutil.rmtree(base, ignore_errors=True)
    own = base + b"/" + rng.choice(NAMES)
    os.makedirs(own)
    for name, text in (
        (b"c.jsonl", '{"image_id": 1, "text": "a dog"}'),
        (b"o.jsonl", '{"image_id": 1, "objects": []}'),
    ):
        with open(own + b"/" + name, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    streams, locale = rng.choice(STREAMS), rng.choice(LOCALES)
    command = [
        "sh",
        "-c",
        f'exec "$0" -m llava_hh score chair --captions "$1" --objects "$2" {streams}',
        sys.executable,
    ]
    done = subprocess.run(
        [*command, own + b"/c.jsonl", own + b"/o.jsonl"],
        env={**os.environ, **locale, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    made = os.path.exists(own + b"/captions_eval_results.json")
    lines = done.stderr.splitlines()
    well = done.returncode == 0 and made
    refused = (
        ("&-" in streams or b"\xe9" in own)
        and done.returncode == 2
        and not made
        and (len(lines) == 1 or "2>&-" in streams)
    )
    if b"Traceback" in done.stderr or not (well or refused):
        return f"{own!r} {streams} {locale}: exit {done.returncode}, {done.stderr[-300:]!r}"
    return None


KINDS = (variables, variables, limits, an_odd_folder, names_and_streams)
