"""Checked settings: a wrong value is refused in one line with the field, the value and what is allowed."""

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Literal, NamedTuple, get_args, get_origin


class Rule(NamedTuple):
    """Which values a field may have, in words and as a test. It stands in the field's type: Annotated[float, rule]."""

    allowed: str
    holds: Callable[[Any], bool]


def number(allowed: str, holds: Callable[[float], bool]) -> Rule:
    """A finite number for which `holds`; True and False are not numbers."""

    def is_allowed(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and holds(value)

    return Rule(allowed, is_allowed)


def at_least(least: float) -> Rule:
    """A finite number of at least `least`."""
    return number(f"a number of at least {least}", lambda value: value >= least)


def whole(least: int = 0) -> Rule:
    """An int of at least `least`."""
    return Rule(f"a whole number of at least {least}", lambda value: type(value) is int and value >= least)


def optional(rule: Rule) -> Rule:
    """None, or what `rule` allows."""
    return Rule(f"None or {rule.allowed}", lambda value: value is None or rule.holds(value))


POSITIVE = number("a number above 0", lambda value: value > 0)
SHARE = number("above 0 and at most 1", lambda value: 0 < value <= 1)
FRACTION = number("from 0 to 1", lambda value: 0 <= value <= 1)
FLAG = Rule("True or False", lambda value: isinstance(value, bool))


# larger ones overflow on the way, and weights that dwarf all logits say nothing
HELD = Rule("at most a million", lambda value: abs(value) <= (1e6 if isinstance(value, float) else 10**12))


class CheckedSettings:
    """Base of the frozen settings dataclasses. Every field of type Annotated or Literal is checked on creation.

    A list becomes a tuple: the text of a method has JSON lists.

    Raises:
        ValueError: such as "VcdSettings: beta must be above 0 and at most 1, not 2".
    """

    def __post_init__(self) -> None:
        for field in fields(self):
            if isinstance(given := getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(given))
            if get_origin(field.type) is Literal:
                options = get_args(field.type)
                self.require(field.name, Rule(" or ".join(map(repr, options)), options.__contains__), given)
            for rule in getattr(field.type, "__metadata__", ()):
                self.require(field.name, rule, given)
            if isinstance(given, int | float):
                self.require(field.name, HELD, given)

    def require(self, field: str, rule: Rule, given: object) -> None:
        """Refuse the field's value, which was `given` so, unless the rule allows it."""
        if not rule.holds(getattr(self, field)):
            raise ValueError(f"{type(self).__name__}: {field} must be {rule.allowed}, not {given!r}")
