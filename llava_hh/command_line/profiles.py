"""The settings of a profile, read as bash_scripts/profile.sh reads them, and which of its numbers a step would refuse.

A profile is lines of `name=value` on top of bash_scripts/profiles/defaults.sh: text, which nothing runs.
"""

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

REPO = Path(__file__).resolve().parents[2]
FOLDER = "bash_scripts/profiles"
DEFAULTS = f"{FOLDER}/defaults.sh"
MOST_FILES = 10  # that inherit from each other
BLANKS = " \t"
NEVER = "$`\\" + "".join(map(chr, (*range(1, 32), 127)))
QUOTED = "'\";&|<>()~"
WRONG_LINE = "expected name=value, as in top_k=20, without blanks around ="
HEAD_LISTS = ("hal_heads", "non_hal_heads")
# numbers of heads, and the lists that they are taken of
TOP_KS = {
    "top_k": ("hal_heads",),
    "bias_top_k": HEAD_LISTS,
    "inheritance_top_k": HEAD_LISTS,
    "reweight_top_k": ("hal_heads",),
    "removal_top_k": ("hal_heads",),
    "finetune_top_k": ("hal_heads",),
    "part_top_k": ("hal_heads",),
}
ON_TEXT = ("top_k", "reweight_top_k", "finetune_top_k")  # of heads that must attend to text
COUNTS = ("attribution_images", "report_images", "max_new_tokens", "batch_size", "reweight_images", "removal_images")
COUNTS += ("finetune_steps", "finetune_batch_size", "finetune_report_images", "part_images", "pope_images")
COUNTS += ("baseline_images", "slow_baseline_images", "baseline_batch_size", "choice_images", "reference_images")
COUNTS += ("list_length", *TOP_KS)


class Setting(NamedTuple):
    """A line of a profile that sets something, or, with `fault`, one that nobody can read."""

    number: int
    name: str
    value: str
    fault: str


def read_profile(profile: str) -> dict[str, str]:
    """All settings of a profile, a name or the path of a file; "" where one is not set.

    Beside them `head_list`, the file that attribute.sh makes.

    Raises:
        ValueError: no such profile, or a line of it that is wrong; names the file and the line.
    """
    if (file := _find(profile, os.getcwd())) is None:
        raise ValueError(f"PROFILE={profile}: {_none_such()}")
    files = [file]
    parsed = {file: _parse(file)}
    while parent := _parent(files[0], parsed[files[0]], len(files)):
        files.insert(0, parent)
        parsed[parent] = _parse(parent)
    settings: dict[str, str] = {}
    for name in (DEFAULTS, *files):
        settings |= _checked(name, parsed[name] if name in parsed else _parse(name), settings)
    needed = [name for name, value in _defaults().items() if value[:1] in ("?", *"0123456789")]
    if lacking := [name for name in needed if settings[name] in ("", "?")]:
        raise ValueError(f"{file}: no value for {' '.join(lacking)}")
    settings["model_path"] = _first_folder(settings["model_path"])
    lengths = [settings[name] for name in ("list_length", *TOP_KS)]
    if all(_is_whole(length, 0) for length in lengths):
        settings["list_length"] = max(lengths, key=int)  # of head lists, of which others are taken
    draw = f"train2014-{settings['attribution_images']}-seed{settings['draw_seed']}"
    settings["head_list"] = f"{settings['result_path']}/{draw}/identify_attention_head/attribution_result.json"
    return settings


def profile_names() -> list[str]:
    """The names of all profiles in bash_scripts/profiles."""
    return sorted({path.stem for path in (REPO / FOLDER).glob("*.sh")} - {Path(DEFAULTS).stem})


def training_checkpoints(profile: Mapping[str, str]) -> list[str]:
    """The paths of a profile's checkpoints of the tuning."""
    folder = profile["training_steps"]
    return [f"{folder}/{name}" if folder else name for name in profile["training_checkpoints"].split()]


def _defaults() -> dict[str, str]:
    return {setting.name: setting.value for setting in _parse(DEFAULTS)}


def _find(profile: str, folder: str) -> str | None:
    """The file of a name in bash_scripts/profiles, or of a path seen from `folder`; None if it cannot be read."""
    file = profile if profile.startswith("/") else f"{folder}/{profile}"
    if "/" not in profile and (REPO / FOLDER / f"{profile}.sh").is_file():
        file = f"{FOLDER}/{profile}.sh"
    return file if (REPO / file).is_file() and os.access(REPO / file, os.R_OK) else None


def _none_such() -> str:
    known = " ".join(profile_names())
    return f"no such profile; choose one of: {known}, or name the path of a file like those"


def _parent(file: str, settings: Sequence[Setting], number: int) -> str | None:
    """The file that a profile inherits from, which its first setting names; `number` files are read so far."""
    if not settings or settings[0].name != "inherit":
        return None
    line, _, value, fault = settings[0]
    if fault or not value:
        _refuse(file, line, fault or "inherit: expected a profile")
    if number == MOST_FILES:
        _refuse(file, line, f"inherit={value}: more than {MOST_FILES} files in a row, or in a circle")
    return _find(value, os.path.dirname(file)) or _refuse(file, line, f"inherit={value}: {_none_such()}")


def _parse(file: str) -> list[Setting]:
    """The lines of a file that are neither blank nor comments."""
    content = (REPO / file).read_bytes()
    if b"\0" in content:
        raise ValueError(f"{file}: holds zero bytes; expected lines of text")
    lines = os.fsdecode(content.removeprefix(b"\xef\xbb\xbf")).split("\n")
    numbered = ((number, line.removesuffix("\r").lstrip(BLANKS)) for number, line in enumerate(lines, 1))
    return [Setting(number, *_take_apart(line)) for number, line in numbered if line and line[0] != "#"]


def _take_apart(line: str) -> tuple[str, str, str]:
    """Name, value and what is wrong with them."""
    name, equals, rest = line.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z0-9_]+", name):
        return "", "", WRONG_LINE
    if quoted := re.match(r'"([^"]*)"', rest):
        value, rest, odd = quoted[1], rest[quoted.end() :], ""
    else:
        value = re.split(r"[ \t]", rest, maxsplit=1)[0]
        rest, odd = rest[len(value) :], QUOTED
    fault = ""
    if set(value) & set(NEVER):
        fault = "a value holds no $, backtick, backslash or control character"
    elif set(value) & set(odd):
        fault = f'a value with any of {QUOTED} stands in double quotes, " in none'
    elif rest and rest[0] not in BLANKS:
        fault = "expected nothing but a comment after the value in quotes"
    elif rest.lstrip(BLANKS)[:1] not in ("", "#"):
        fault = "a value with blanks stands in double quotes"
    return name, value, f"{name}: {fault}" if fault else ""


def _checked(file: str, settings: Sequence[Setting], known: Mapping[str, str]) -> dict[str, str]:
    """The values that a file sets: each name once, and one of the known ones, which those of the defaults become.

    Raises:
        ValueError: another line.
    """
    found: dict[str, str] = {}
    for number, name, value, fault in settings:
        if not fault and name not in {"inherit", *(known or [name])}:
            fault = f"{name}: no such setting; did you mean {nearest(name, known)}?"
        elif not fault and name == "inherit" and found:
            fault = "inherit: comes before all other settings"
        elif not fault and name in found:
            fault = f"{name}: is set in a line above already"
        if fault:
            _refuse(file, number, fault)
        found[name] = value
    found.pop("inherit", None)
    return found


def nearest(given: str, names: Iterable[str]) -> str:
    """The first of the names that differ from a given one by the fewest letters put in, left out or changed."""

    def edits(name: str) -> int:
        row = [*range(len(name) + 1)]
        for i, letter in enumerate(given, 1):
            corner, row[0] = row[0], i
            for j, other in enumerate(name, 1):
                corner, row[j] = row[j], min(corner + (letter != other), row[j] + 1, row[j - 1] + 1)
        return row[-1]

    return min(names, key=edits)


def _refuse(file: str, number: int, fault: str) -> NoReturn:
    raise ValueError(f"{file}, line {number}: {fault}")


def _first_folder(value: str) -> str:
    """The first of the folders "A | B" that is there, or A."""
    folders = [text for part in value.split("|") if (text := part.strip(" "))]
    return next((folder for folder in folders if (REPO / folder).is_dir()), folders[0] if folders else "")


def _is_whole(text: str, least: int) -> bool:
    return text.isascii() and text.isdigit() and int(text) >= least


def _is_number(text: str, most: float) -> bool:
    try:
        return 0 <= float(text) <= most and math.isfinite(float(text))
    except ValueError:
        return False


# what is expected of a number, and whether a text is that
_COUNT = ("a whole number of at least 1", lambda text: _is_whole(text, 1))
_FRACTION = ("a number from 0 to 1", lambda text: _is_number(text, 1))
_POSITIVE = ("a number above 0", lambda text: _is_number(text, math.inf) and float(text) > 0)
EXPECTED: dict[str, tuple[str, Callable[[str], bool]]] = {
    **dict.fromkeys(COUNTS, _COUNT),
    "attribution_captions": ("nothing or a whole number of at least 1", lambda text: not text or _is_whole(text, 1)),
    **dict.fromkeys(
        ("random_draws", "reweight_draws", "draw_seed", "choice_seed"),
        ("a whole number", lambda text: _is_whole(text, 0)),
    ),
    **dict.fromkeys(("threshold", "part_threshold"), _FRACTION),
    "finetune_attention_coeff": ("a number of at least 0", lambda text: _is_number(text, math.inf)),
    "finetune_learning_rate": _POSITIVE,
    "finetune_seeds": (
        "one or more whole numbers",
        lambda text: bool(text.split()) and all(_is_whole(seed, 0) for seed in text.split()),
    ),
}


def wrong_numbers(profile: dict[str, str]) -> list[str]:
    """What is wrong with the numbers of a profile, a text for each."""
    return [
        f"{name} is {profile.get(name, '')!r}, expected {expected}"
        for name, (expected, is_right) in EXPECTED.items()
        if not is_right(profile.get(name, ""))
    ]


def short_of(profile: dict[str, str], lengths: Mapping[str, int], names: Iterable[str]) -> list[str]:
    """The numbers of heads that lists of these lengths are too short for, a text for each.

    Args:
        lengths: by HEAD_LISTS.
        names: which of TOP_KS are taken of these lists.
    """
    return [
        f"{key} has {lengths[key]} heads, the profile's {name} is {profile[name]}"
        for name in names
        for key in TOP_KS[name]
        if int(profile[name]) > lengths[key]
    ]
