"""The settings of a profile as the wrappers read them, and which of its numbers a wrapper's step would refuse."""

import math
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
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
COUNTS += ("baseline_images", "slow_baseline_images", "baseline_batch_size", *TOP_KS)


def read_profile(profile: str) -> dict[str, str]:
    """All settings of a profile, a name or the path of a file, as the wrappers read them; "" where one is not set.

    Beside them `head_list`, the file that attribute.sh makes.

    Raises:
        ValueError: no such profile, or one that sh cannot read.
    """
    script = ". bash_scripts/profile.sh && for name in $profile_settings head_list"
    script += '; do eval "printf \'%s\\\\0%s\\\\0\' $name \\"\\${$name:-}\\""; done'
    environment = {**os.environ, "PROFILE": str(Path(profile).resolve()) if "/" in profile else profile}
    done = subprocess.run(
        ["sh", "-euc", script], cwd=REPO, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ValueError(done.stderr.strip().removeprefix("error: ") or f"{profile}: sh cannot read it")
    parts = done.stdout.split("\0")
    return dict(zip(parts[::2], parts[1::2], strict=False))


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
    **dict.fromkeys(("random_draws", "reweight_draws"), ("a whole number", lambda text: _is_whole(text, 0))),
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
