"""Files of JSON objects, one a line, such as captions and answers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row with its number, from 1; blank lines are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line that is no JSON object, or no row at all.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected JSON lines")
    is_empty = True
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, row {number}: not JSON ({error}); expected one object a line") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, row {number}: expected an object, found a {type(row).__name__}")
        is_empty = False
        yield number, row
    if is_empty:
        raise ValueError(f"{path}: no row there; expected at least one")
