"""Numbers in prose, each with the file and key that it is from in a comment behind it.

    CHAIR_i falls by 1.8<!-- results/mini/measured.json#methods/AD-HH/minus_greedy/CHAIRi/difference*100 --> points

A part of a key is the name of an object's entry, the label of one, the index of a list's entry, or `name=value` pairs
with & between them, which one entry of a list has. The text decides how the number is written: its decimals, a percent
sign (times 100), a sign in front, commas. Without a sign in front it is the absolute value.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NUMBER = re.compile(r"([+-]?)(\d[\d,]*(?:\.\d+)?)(%?)<!-- ([\w./-]+)#(\S+?)(\*100)? -->")
CONTENTS: dict[Path, Any] = {}


def numbers_renewed(page: str, root: Path) -> str:
    """The page with the numbers that the files hold."""
    return NUMBER.sub(lambda found: written(found, root) + found[0][found[0].index("<!--") :], page)


def written(found: re.Match, root: Path) -> str:
    """A number as the file has it and as the text writes it."""
    sign, number, percent, file, key, times = found.groups()
    path = root / file
    if path not in CONTENTS:
        CONTENTS[path] = json.loads(path.read_text(encoding="utf-8"))
    value = CONTENTS[path]
    for part in key.split("/"):
        value = entry(value, part)
    value *= 100 if percent or times else 1
    decimals, comma = len(number.partition(".")[2]), "," * ("," in number)
    return f"{value if sign else abs(value):{'+' if sign else ''}{comma}.{decimals}f}{percent}"


def entry(content: Any, part: str) -> Any:
    """The entry of an object or a list that a part of a key names.

    Raises:
        KeyError: no such entry, or several.
    """
    if isinstance(content, Mapping):
        if part in content:
            return content[part]
        found = [each for each in content.values() if isinstance(each, Mapping) and each.get("label") == part]
    elif "=" in part:
        wanted = [pair.split("=") for pair in part.split("&")]
        found = [each for each in content if all(str(each[name]) == value for name, value in wanted)]
    else:
        found = [content[int(part)]]
    if len(found) != 1:
        raise KeyError(f"{part}: {len(found)} entries")
    return found[0]
