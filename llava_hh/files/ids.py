"""Ids in files that users bring: one rule, whatever the reader."""

import re

DIGITS = re.compile(r"-?[0-9]{1,40}")


def whole_id(value: object, name: str = "id") -> int:
    """A whole number or the text of its digits: 7, "7" and "000000000007" are the same id.

    Args:
        name: what the message calls it.
    Raises:
        ValueError: anything else, such as null, true, 7.0, a list or another text.
    """
    if type(value) is int:
        return value
    if isinstance(value, str) and DIGITS.fullmatch(value):
        return int(value)
    raise ValueError(f"{name} is {value!r:.80}; expected a whole number")


def number_or_text(value: object, name: str = "id") -> int | str:
    """The same where ids may also be text, such as "n161313": that is kept as it is.

    Raises:
        ValueError: neither a whole number nor a text.
    """
    if isinstance(value, str) and value and not DIGITS.fullmatch(value):
        return value
    return whole_id(value, name)
