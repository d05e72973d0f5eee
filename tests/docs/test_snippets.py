"""Every block of code of README and docs is run by a test, or says why not; every command has flags that exist."""

import argparse
import importlib
import os
import re
import subprocess
from unittest.mock import patch

import pytest

from llava_hh.__main__ import VERBS
from llava_hh.runs.plugins import PLUGINS
from tests.support.repository import ROOT
from tests.support.snippets import PAGES, blocks_of, commands_in, first_steps
from tests.support.verbs import parsers
from tests.support.wrappers import calls_in, make_stub, parsed

SHOWN_ONLY = {"text", "json", "ini", "bibtex"}
REASONS = re.compile(r"needs .+|.*(second|minute|hour)s? on mini.*")
BY_OTHER_TESTS = {"sh bash_scripts/quickstart.sh", "sh bash_scripts/test.sh"}  # tests/newcomer, and what runs this
PYTHON_IN = {"README.md", "getting_started.md", "extending.md"}  # test_python.py, test_adding.py
INLINE = re.compile(r"(?<!`)`((?:PROFILE=\S+ )?(?:llava-hh|sh) [^`\n]+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_are_run_or_say_why_not(page):
    run = {line for *_, line in first_steps()} | BY_OTHER_TESTS
    for block in blocks_of(page):
        if block.not_run:
            assert REASONS.fullmatch(block.not_run), block.not_run
        elif block.language == "sh":
            lines = [line.split("  #")[0].rstrip() for line in block.code.splitlines() if not line.startswith("#")]
            assert not {*lines} - run, "run it in a test, or say why not: <!-- not run: needs ... -->"
        elif block.language == "python":
            assert page.name in PYTHON_IN
        else:
            assert block.language in SHOWN_ONLY


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_stands_in_fences(page):
    text = page.read_text(encoding="utf-8")
    assert text.count("```") == 2 * len(blocks_of(page))
    assert not re.search(r"^    (llava-hh|sh|python|PROFILE\S*|\.venv\S*) ", text, re.MULTILINE)


def called_in(words: list[str]) -> list[str] | None:
    """The verb and flags of a command that calls llava-hh."""
    if words[0].endswith("llava-hh"):
        return words[1:]
    return words[words.index("llava_hh") + 1 :] if "llava_hh" in words[:3] else None


BLOCKS = [block for page in PAGES for block in blocks_of(page) if block.language == "sh"]
COMMANDS = {" ".join(words): words for block in BLOCKS for words in commands_in(block.code)}
CALLS = [call for words in COMMANDS.values() if (call := called_in(words)) and call != ["--help"]]
WRAPPED = [words for words in COMMANDS.values() if "sh" in words]


@pytest.mark.parametrize("call", CALLS, ids=lambda words: " ".join(words)[:60])
def test_verbs_know_their_flags(call, tmp_path, monkeypatch):
    (tmp_path / "mine.py").touch()
    monkeypatch.chdir(tmp_path)
    with patch.dict(PLUGINS):  # --plugin is run as it is read
        parsed(call)


@pytest.mark.parametrize("words", WRAPPED, ids=lambda words: " ".join(words)[:60])
def test_wrappers_are_there_and_know_their_flags(words, tmp_path):
    """One without flags is run by tests/repository."""
    start = words.index("sh")
    wrapper, flags = ROOT / words[start + 1], words[start + 2 :]
    assert wrapper.is_file()
    if flags:
        given = dict(word.split("=", 1) for word in words[:start])
        stub = make_stub(tmp_path / "python", tmp_path / "calls")
        environment = {**os.environ, "PYTHON": str(stub), "PROFILE": given.get("PROFILE", "mini")}
        done = subprocess.run(["sh", wrapper, *flags], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        for call in calls_in(tmp_path / "calls"):
            parsed(call)


def parsers_of(words: list[str]) -> list[argparse.ArgumentParser]:
    """The parsers of a verb and of those below it, as far as the words name them."""
    parser = importlib.import_module(f"llava_hh.scripts.{words[0]}").parser()
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if below and len(words) > 1 and words[1] in below[0].choices:
        return [below[0].choices[words[1]]]
    return list(parsers(parser))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_text_name_verbs_flags_and_wrappers_that_exist(page):
    for command in INLINE.findall(page.read_text(encoding="utf-8")):
        words = command.split()
        if "sh" in words[:2]:
            script = words[words.index("sh") + 1]
            assert (ROOT / script).is_file() or re.search(r"[A-Z<*]", script), command
        elif words[1].islower() and words[1].isalpha():
            assert any(words[1] in verbs for verbs in VERBS.values()), command
            known = {flag for parser in parsers_of(words[1:]) for flag in parser._option_string_actions}
            assert not {word for word in words if word.startswith("--")} - known, command
