"""Verbs below a verb as functions of their flags, such as score_chair(["--captions", ...])."""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

import pytest


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A verb's parser, or those of the verbs below it."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    yield from (each for action in below for own in action.choices.values() for each in parsers(own))
    if not below:
        yield parser


def script_of(verb: str) -> str:
    """The module of a verb."""
    return f"llava_hh.scripts.{verb.replace('-', '_')}"


def below(verb: str, what: str) -> Callable[[Sequence[str]], None]:
    """`llava-hh VERB WHAT`."""
    return lambda flags: import_module(f"llava_hh.scripts.{verb}").main([what, *flags])


score_chair, score_benchmark, score_vqa = (below("score", what) for what in ("chair", "benchmark", "vqa"))
compare_runs, compare_heads = below("compare", "runs"), below("compare", "heads")
compare_seeds, compare_details = below("compare", "seeds"), below("compare", "details")
report_html, report_figures = below("report", "html"), below("report", "figures")


def write_rows(path: Path, rows: Iterable[dict]) -> Path:
    """JSON lines for a verb to read."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def error_of(main: Callable[[Sequence[str]], None], capsys: pytest.CaptureFixture, *flags: object) -> str:
    """What a verb prints to stderr where it refuses its flags; its last line is the error."""
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, flags)])
    printed = capsys.readouterr().err
    assert stopped.value.code == 2 and printed.splitlines()[-1].startswith("error: ")
    return printed
