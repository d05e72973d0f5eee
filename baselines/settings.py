"""How a decoder's settings refuse a wrong value: one line with the field, the value and what is allowed."""

import math
from typing import Any


def require(settings: Any, field: str, holds: bool, allowed: str) -> None:
    """Refuse `field` of a settings dataclass unless `holds`.

    Raises:
        ValueError: such as "VcdSettings: beta must be above 0 and at most 1, not 2".
    """
    if not holds:
        raise ValueError(f"{type(settings).__name__}: {field} must be {allowed}, not {getattr(settings, field)!r}")


def is_whole(value: Any, least: int = 0) -> bool:
    """Whether `value` is an int (True and False are none) of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: Any, least: float = -math.inf) -> bool:
    """Whether `value` is a finite number of at least `least`."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= least


def is_share(value: Any) -> bool:
    """Whether `value` is a number above 0 and at most 1."""
    return is_number(value) and 0 < value <= 1
