"""Result files of scored answers and captions: checked before any work, and written."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llava_hh.comparing.inputs import made_of
from llava_hh.files.files import write_json
from llava_hh.files.progress import say
from llava_hh.runs.run import make_parent


def see_writable(out: Path, inputs: Iterable[Path]) -> None:
    """Check before any work that the result file can be written.

    Raises:
        ValueError: it is one of the inputs.
        FileExistsError: it is there, and this package did not write it.
        OSError: its folder cannot be written.
    """
    if out.resolve() in {path.resolve() for path in inputs}:
        raise ValueError(f"--out {out}: is an input of this run; expected another file")
    make_parent(out)


def write_scores(out: Path, content: Mapping[str, Any], inputs: Iterable[Path], summary: str, **further: Any) -> None:
    """Write a result file with its `run`, and print a summary and the file's name.

    Args:
        further: keys of `run` beside provenance and the sha256 of the inputs.
    """
    write_json(out, {**content, "run": made_of(inputs, **further)})
    say(f"{summary}\n{out}")
