"""Numbers on the command line: every script's parser takes those that make sense and refuses all others in one line."""

import argparse
import ast
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llava_hh.models.hub_id import checkpoint
from tests.support.repository import ROOT
from tests.support.verbs import parsers

SCRIPTS = sorted(
    path.relative_to(ROOT)
    for folder in ("llava_hh/scripts", "baselines", "newer_models", "benchmarks")
    for path in (ROOT / folder).glob("*.py")
    if any(call in path.read_text() for call in ("parse_args(", "run_verb"))
)
WITHOUT_NUMBERS = {"benchmarks/all.py"}  # its parser stands in main
NEVER = ("nan", "inf", "-inf", "-2", "", "two", "0x3", "1e999")
# what flags take and refuse beyond that; whole numbers from 1 up where a flag is in none of these
FROM_0 = {"--random-draws", "--examples", "--seed", "--noise-seed", "--random-heads"}
FROM_0_TO_1 = {"--threshold", "--recall-loss", "--repeats-rise", "--masked"}
BELOW_1 = {"--warmup"}
ABOVE_0_TO_1 = {"--efficiency", "--sweep-share"}
ABOVE_0 = {"--learning-rate", "--tflops", "--terabytes"}
NOT_NEGATIVE = {"--alpha", "--alpha-image", "--alphas", "--noise-scale", "--ce-coeff", "--attention-coeff", "--step-ms"}


def taken_and_refused(flag: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if flag in FROM_0:
        return ("0", "1", "7"), ("0.5", "1.0")
    if flag in FROM_0_TO_1:
        return ("0", "0.4", "1"), ("2", "1.01", "-0.1")
    if flag in BELOW_1:
        return ("0", "0.03"), ("1", "1.5", "-0.1")
    if flag in ABOVE_0_TO_1:
        return ("0.5", "1"), ("0", "1.01")
    if flag in ABOVE_0:
        return ("2e-5", "312"), ("0", "-0.1")
    if flag in NOT_NEGATIVE:
        return ("0", "0.5", "3"), ("-0.1",)
    return ("1", "7", "100000"), ("0", "0.5", "1.0")


def options(path: Path) -> Iterator[tuple[argparse.ArgumentParser, argparse.Action]]:
    """The options of a script's parser that take a number: all with a type that is no class and not of checkpoints."""
    if path.parts[0] == "benchmarks":
        with benchmarks_importable():
            whole = importlib.import_module(path.stem).parser()
    else:
        whole = importlib.import_module(".".join(path.with_suffix("").parts)).parser()
    for parser in parsers(whole):
        for action in parser._actions:
            is_class = isinstance(action.type, type) and action.type not in (int, float)
            if action.type not in (None, checkpoint) and not is_class:
                yield parser, action


@contextmanager
def benchmarks_importable() -> Iterator[None]:
    """They stand in the way of modules of the tests, one of which is called decoding too."""
    kept = sys.modules.pop("decoding", None)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
        sys.modules.pop("decoding", None)
        if kept:
            sys.modules["decoding"] = kept


def test_every_script_is_walked():
    walked = [path for path in SCRIPTS if str(path) not in WITHOUT_NUMBERS]
    assert len(walked) >= 20 and sum(1 for path in walked for _ in options(path)) > 80
    for path in SCRIPTS:
        defined = [node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)]
        assert "parser" in defined or str(path) in WITHOUT_NUMBERS, path


@pytest.mark.parametrize("path", [path for path in SCRIPTS if str(path) not in WITHOUT_NUMBERS], ids=str)
def test_numbers_that_make_no_sense_are_refused_by_the_parser(path, capsys):
    for parser, action in options(path):
        flag = action.option_strings[0]
        taken, refused = taken_and_refused(flag)
        if action.choices:  # a few numbers and no others
            taken, refused = (str(action.choices[0]),), ("0", "-2")
        n = action.nargs if isinstance(action.nargs, int) else 1
        for text in taken:
            assert parser._get_values(action, [text] * n) is not None, (flag, text)
        for text in (*NEVER, *refused):
            with pytest.raises(SystemExit) as stopped:
                parser.parse_args([f"{flag}={text}"] if n == 1 else [flag, *[text] * n])
            error = capsys.readouterr().err
            assert stopped.value.code == 2, (flag, text)
            assert error.startswith(f"error: argument {flag}: ") and error.count("\n") == 1, (flag, text)
