"""The form of result files: the version of their keys (docs/files.md), and the layout of their JSON."""

import json
from collections.abc import Iterator
from pathlib import Path

SCHEMA_VERSION = 2  # files of schema 1 have no `schema_version`
FINISHED = ".finished.json"  # ends the name of the note beside a result that says what made it
ONE_A_LINE = ("sentences",)  # lists whose entries are written one a line, however long


def with_version(content: object) -> object:
    """JSON content, with its `schema_version` first if it is a result: an object with a `run`."""
    is_result = isinstance(content, dict) and isinstance(content.get("run"), dict)
    return {"schema_version": SCHEMA_VERSION, **content} if is_result else content


def refuse_other_version(path: Path, content: dict) -> None:
    """See that the keys of a result file are those of this version.

    Raises:
        ValueError: another version of this package wrote it; says how to go on.
    """
    version = content.get("schema_version", 1 if "run" in content else SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        what = f"{path}: another version of this package wrote it (schema {version!r}, not {SCHEMA_VERSION})"
        raise ValueError(f"{what}; give the command that made it again (finished work is kept), or move it away")


def json_pieces(content: object, margin: str = "\n", in_lines: bool = False) -> Iterator[str]:
    """The text of JSON in pieces, an entry a line; a list without lists and objects, such as a head, is one line.

    Args:
        margin: what begins a line.
        in_lines: write every entry of a list as one line, whatever is in it.
    """
    if isinstance(content, dict) and content:
        sign = "{"
        for key, value in content.items():
            name = key if isinstance(key, str) else json.dumps(key)
            yield f"{sign}{margin} {json.dumps(name, ensure_ascii=False)}: "
            yield from json_pieces(value, f"{margin} ", in_lines=key in ONE_A_LINE)
            sign = ","
        yield f"{margin}}}"
    elif isinstance(content, list | tuple) and any(isinstance(entry, dict | list | tuple) for entry in content):
        sign = "["
        for value in content:
            yield f"{sign}{margin} "
            yield from [json.dumps(value, ensure_ascii=False)] if in_lines else json_pieces(value, f"{margin} ")
            sign = ","
        yield f"{margin}]"
    else:
        yield json.dumps(content, ensure_ascii=False)
