"""The settings of a profile, as bash_scripts/profile.sh reads them, and which of its numbers a step would refuse.

A profile is lines of `name=value` on top of bash_scripts/profiles/defaults.sh. It is text; nothing in it is run.
"""

import os
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping
from math import inf
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
FOLDER = "bash_scripts/profiles"
DEFAULTS = f"{FOLDER}/defaults.sh"
PRINT_SETTINGS = r"""cd "$0"
. bash_scripts/profile.sh
for name in $profile_settings head_list; do eval "printf '%s\n' $name \"\$$name\""; done"""
NO_UTF8 = re.compile("[\ud800-\udfff]")  # how Python writes bytes of another encoding
HEAD_LISTS = ("hal_heads", "non_hal_heads")
# numbers of heads, and the lists that they are taken from
TOP_KS = {
    f"{step}top_k": HEAD_LISTS if step in ("bias_", "inheritance_") else HEAD_LISTS[:1]
    for step in ("", "bias_", "inheritance_", "reweight_", "removal_", "finetune_", "part_")
}
ON_TEXT = ("top_k", "reweight_top_k", "finetune_top_k")  # of heads that must attend to text
COUNTS = ("attribution_images", "report_images", "max_new_tokens", "batch_size", "reweight_images", "removal_images")
COUNTS += ("finetune_steps", "finetune_batch_size", "finetune_report_images", "part_images", "pope_images")
COUNTS += ("baseline_images", "slow_baseline_images", "baseline_batch_size", "choice_images", "reference_images")
COUNTS += ("list_length", *TOP_KS)


def read_profile(profile: str) -> dict[str, str]:
    """All settings of a profile, a name or the path of a file; "" where one is not set.

    `head_list` is among them: the file that attribute.sh writes.

    Raises:
        ValueError: no such profile, or a wrong line in it; names the file and the line. Also where the package was
            installed without a clone, which has the profiles.
    """
    if not (REPO / DEFAULTS).is_file():
        what = f"a profile needs {FOLDER} of a clone of the repository, which this installation has not"
        raise ValueError(f"PROFILE={profile!r}: {what}; give the flags themselves, or work in a clone")
    if not profile or "\0" in profile:
        known = " ".join(profile_names())
        raise ValueError(
            f"PROFILE={profile!r}: no such profile; choose one of: {known}, or name the path of such a file"
        )
    command, environment = ["sh", "-euc", PRINT_SETTINGS, REPO], {**os.environ, "PROFILE": profile}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
    except OSError as error:
        raise ValueError(
            f"PROFILE={profile}: profiles are read by sh, which cannot be started: {error.strerror}"
        ) from None
    if done.returncode:
        raise ValueError(os.fsdecode(done.stderr).removeprefix("error: ").removesuffix("\n"))
    printed = os.fsdecode(done.stdout).split("\n")  # values hold no control characters
    return dict(zip(printed[:-1:2], printed[1::2], strict=True))


def profile_names() -> list[str]:
    """The names of all profiles in bash_scripts/profiles."""
    files = sorted((REPO / FOLDER).glob("*.sh"), key=lambda path: path.name)  # as the shell sorts them
    return [path.stem for path in files if path.stem != Path(DEFAULTS).stem]


def training_checkpoints(profile: Mapping[str, str]) -> list[str]:
    """The paths of the checkpoints that a profile names of its model's instruction tuning."""
    folder = profile["training_steps"]
    return [f"{folder}/{name}" if folder else name for name in profile["training_checkpoints"].split()]


def nearest(given: str, names: Iterable[str]) -> str:
    """The first of the names that differ from a given one by the fewest letters put in, left out or changed."""
    from nltk.metrics.distance import edit_distance  # its import takes long, and only errors need it

    return min(names, key=lambda name: edit_distance(given, name))


def _number(allows: Callable[[float], bool]) -> Callable[[str], bool]:
    def is_right(text: str) -> bool:
        try:
            return allows(float(text))
        except ValueError:
            return False

    return is_right


# what is expected of a number, and what is true of a text that is such a number
EXPECTED: dict[str, tuple[str, Callable[[str], object]]] = {
    **dict.fromkeys(COUNTS, ("a whole number of at least 1", re.compile("0*[1-9][0-9]*").fullmatch)),
    "attribution_captions": ("nothing or a whole number of at least 1", re.compile("(0*[1-9][0-9]*)?").fullmatch),
    **dict.fromkeys(
        ("random_draws", "reweight_draws", "draw_seed", "choice_seed"),
        ("a whole number", re.compile("[0-9]+").fullmatch),
    ),
    **dict.fromkeys(("threshold", "part_threshold"), ("a number from 0 to 1", _number(lambda value: 0 <= value <= 1))),
    "finetune_attention_coeff": ("a number of at least 0", _number(lambda value: 0 <= value < inf)),
    "finetune_learning_rate": ("a number above 0", _number(lambda value: 0 < value < inf)),
    "finetune_seeds": ("one or more whole numbers", re.compile(r"\s*[0-9]+(\s+[0-9]+)*\s*").fullmatch),
}


def wrong_numbers(profile: Mapping[str, str]) -> list[str]:
    """What is wrong with the numbers of a profile, a text for each."""
    return [
        f"{name} is {profile.get(name, '')!r}, expected {expected}"
        for name, (expected, is_right) in EXPECTED.items()
        if not is_right(profile.get(name, ""))
    ]


def short_of(profile: Mapping[str, str], lengths: Mapping[str, int], names: Iterable[str]) -> list[str]:
    """The numbers of heads that exceed the length of the lists they are taken from, a text for each.

    Args:
        lengths: by HEAD_LISTS.
        names: which of TOP_KS are taken from these lists.
    """
    return [
        f"{key} has {lengths[key]} heads, the profile's {name} is {profile[name]}"
        for name in names
        for key in TOP_KS[name]
        if int(profile[name]) > lengths[key]
    ]
