"""Flags at the end of a wrapper reach the verbs that they belong to; what no verb knows is refused before any work."""

import re
import subprocess
import sys

import pytest

from llava_hh.command_line.route import label_of, main, parser_of, share
from tests.support.repository import ROOT
from tests.support.wrappers import WRAPPERS, called, calls_in, calls_of, make_stub, parsed, run_wrapper

VERBS = ["caption", "score.chair", "attribute"]
OWN = ("attribute", ["--limit", "--batch-size", "--out"])
SHARE = re.compile(r'^share "([^"]*)" "([^"]*)"', re.MULTILINE)
SOURCED = "analysis/attention_reweight.sh"
SHARING = {path: SHARE.search(path.read_text()) for path in (*WRAPPERS, ROOT / "bash_scripts" / SOURCED)}
SHARING = {path: (found[1].split(), found[2]) for path, found in SHARING.items() if found}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], [[], [], []]),
        (["--limit", "5"], [[], [], ["--limit", "5"]]),
        (["--lim=5"], [[], [], ["--limit=5"]]),
        (["caption:--limit", "5", "--limit", "3"], [["--limit", "5"], [], ["--limit", "3"]]),
        (["chair:--out=x", "--out", "y"], [[], ["--out=x"], ["--out", "y"]]),
        (["--model", "m"], [["--model", "m"], [], ["--model", "m"]]),
        (["--skip-bad", "--seed", "7"], [["--skip-bad", "--seed", "7"], ["--skip-bad"], []]),
        (["--prompt", "a b 'c' $d", "--released"], [["--prompt", "a b 'c' $d"], [], ["--released"]]),
        (["--prompt", "- what is --seed 3?"], [["--prompt", "- what is --seed 3?"], [], []]),
        (
            ["--with-object", "car", "dog", "--variant", "clean"],
            [[], ["--variant", "clean"], ["--with-object", "car", "dog"]],
        ),
        (["--noise-scale", "0.5", "--noise-seed", "2"], [[], [], ["--noise-scale", "0.5", "--noise-seed", "2"]]),
        (["--debug"], [["--debug"]] * 3),
    ],
)
def test_flags_go_to_the_verbs_that_know_them(words, expected):
    assert share(VERBS, OWN, words) == dict(zip(("caption", "chair", "attribute"), expected, strict=True))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--limt", "5"], "--limt: no such flag of caption, chair, attribute; did you mean --limit?"),
        (["caption:--variant", "clean"], "--variant: no such flag of caption; did you mean --"),
        (["report:--limit", "5"], "report:--limit: no such verb here; expected one of caption, chair, attribute"),
        (["--noise", "5"], "--noise: could be --noise-scale, --noise-seed"),
        (["5"], "'5': expected a flag of caption, chair, attribute"),
        (["--", "--limit", "5"], "'--': expected a flag of"),
        (["--limit", "5", "6"], "6: neither a flag of attribute nor a value of one"),
        (["--released", "yes"], "yes: neither a flag of attribute nor a value of one"),
        (["--limit", "5", "--"], "neither a flag of attribute nor a value of one"),
        (["--limit", "five"], "argument --limit: 'five': expected a whole number"),
        (["--limit"], "argument --limit: expected one argument"),
        (["--variant"], "argument --variant: expected one argument"),
        (["--screen", "3", "--race", "4"], "not allowed with argument"),
        (["--limit", "-5"], "argument --limit: '-5': expected a whole number"),
    ],
)
def test_what_no_verb_can_take_is_one_line(words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([" ".join(VERBS), "attribute: --limit", *words])
    said = capsys.readouterr()
    assert stopped.value.code == 2 and not said.out
    assert said.err.startswith("error: ") and message in said.err and said.err.count("\n") == 1, said.err


def test_help_is_that_of_all_verbs_or_of_one(capsys):
    main([" ".join(VERBS), "", "--limit", "5", "--help"])
    said = capsys.readouterr()
    assert not said.out and all(
        f"usage: llava-hh {verb}" in said.err for verb in ("caption", "score chair", "attribute")
    )
    main([" ".join(VERBS), "", "chair:--help"])
    said = capsys.readouterr()
    assert said.err.startswith("usage: llava-hh score chair") and "llava-hh caption" not in said.err


@pytest.mark.parametrize("path", SHARING, ids=lambda path: path.name)
def test_a_wrapper_says_of_each_flag_of_several_verbs_whose_it_is(path):
    """What is one verb's own is known to it and to another; --limit, where two know it, is explained."""
    verbs, text = SHARING[path]
    label, _, flags = text.partition(":")
    parsers = {label_of(verb): parser_of(verb) for verb in verbs}
    for flag in flags.split():
        knowing = [name for name, parser in parsers.items() if flag in parser._option_string_actions]
        assert label in knowing and len(knowing) > 1, flag
    comment = "".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert all(flag in comment for flag in flags.split())
    assert "A flag goes to" in comment or path.name == "attention_reweight.sh"
    limited = [name for name, parser in parsers.items() if "--limit" in parser._option_string_actions]
    assert len(limited) < 2 or "--limit is" in comment or "--limit goes to" in comment


@pytest.mark.parametrize("wrapper", [path for path in SHARING if path in WRAPPERS], ids=lambda path: path.name)
def test_an_unknown_flag_is_refused_before_the_first_verb_runs(wrapper, tmp_path):
    stub, log = make_stub(tmp_path / "python", tmp_path / "calls"), tmp_path / "calls"
    for given in (["--no-such-flag"], ["--debug", "stray"]):
        done = run_wrapper(wrapper, "mini", stub, *given)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
        assert not log.exists()
    done = run_wrapper(wrapper, "mini", stub, "--help")
    assert done.returncode == 0 and "usage: llava-hh" in done.stderr and not log.exists()


@pytest.mark.parametrize(
    "wrapper", ["bash_scripts/quickstart.sh", "bash_scripts/reproduce.sh", "bash_scripts/mini/measure.sh"]
)
def test_wrappers_without_flags_say_so(wrapper, tmp_path):
    stub, log = make_stub(tmp_path / "python", tmp_path / "calls"), tmp_path / "calls"
    done = run_wrapper(ROOT / wrapper, "mini", stub, "--limit", "2")
    assert done.returncode == 2 and "error: --limit: this wrapper has no flags" in done.stderr and not log.exists()


ODD = [
    "a b",
    "it's",
    '"quoted"',
    "$(touch made)",
    "`touch made`",
    "a;b&c|d",
    "*",
    "back\\slash",
    "~",
    "é猫",
    "tab\there",
]


@pytest.mark.parametrize("value", ODD)
def test_values_reach_their_verb_as_they_are(value, tmp_path):
    given = ["--prompt", value, f"--annotations={value}", "--noise-seed", "3"]
    caption, score, attribute = map(parsed, calls_of(ROOT / "bash_scripts/attribute.sh", "mini", tmp_path, *given))
    assert caption.prompt == value and str(caption.annotations) == str(score.annotations) == value
    assert attribute.noise_seed == 3
    assert not (ROOT / "made").exists() and not (tmp_path / "made").exists()


def test_any_bytes_reach_their_verb():
    value = bytes(byte for byte in range(1, 256) if byte != 0x1F)
    line = b'. bash_scripts/flags.sh; PYTHON=$0; share caption "" --prompt "$1"; with caption printf "%s|"'
    command = [b"sh", b"-euc", line, sys.executable.encode(), value]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    assert done.stdout == b"--prompt|" + value + b"|"


def test_all_analyses_get_the_flags_that_they_know(tmp_path):
    given = ["--limit", "4", "--base-model", "b", "evaluate:--batch-size", "3", "--span", "image"]
    calls = calls_of(ROOT / "bash_scripts/analysis/all.sh", "mini", tmp_path, *given)
    names = [called(call) for call in calls]
    assert names[:4] == ["figure modules", "figure bias", "figure inheritance", "figure divergence"]
    of = {name: vars(parsed(call)) for name, call in zip(names, calls, strict=True)}
    assert {of[name]["limit"] for name in (*names[1:4], "evaluate")} == {4}
    assert str(of["figure inheritance"]["base_model"]) == "b"
    assert of["evaluate"]["batch_size"] == 3 and of["figure bias"]["batch_size"] == 8
    assert calls_in(tmp_path / "calls") == calls
