"""Types of the numbers that flags take."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True)
class Number:
    """A type of argparse: numbers of a `kind` within bounds, which NaN is never.

    Raises:
        ArgumentTypeError: any other text; argparse puts the flag in front of it.
    """

    kind: type[int] | type[float]
    expected: str
    allows: Callable[[float], bool]
    metavar: str = "N"

    def __call__(self, text: str) -> float:
        try:
            value = self.kind(text)
        except ValueError:
            value = None
        if value is None or not self.allows(value):
            raise argparse.ArgumentTypeError(f"{text!r}: expected {self.expected}")
        return value


SIZE = Number(int, "a whole number of at least 1", lambda value: value >= 1)
COUNT = Number(int, "a whole number of at least 0", lambda value: value >= 0)
# numpy's bounds
RANDOM_SEED = Number(int, "a whole number from 0 to 2**32 - 1", lambda value: 0 <= value < 2**32, "SEED")
RATE = Number(float, "a number above 0", lambda value: 0 < value < inf, "NUMBER")
FACTOR = Number(float, "a number of at least 0", lambda value: 0 <= value < inf, "NUMBER")
FRACTION = Number(float, "a fraction from 0 to 1", lambda value: 0 <= value <= 1, "FRACTION")
SHARE = Number(float, "a fraction from 0 to below 1", lambda value: 0 <= value < 1, "FRACTION")
