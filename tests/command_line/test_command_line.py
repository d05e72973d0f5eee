"""One command: verbs in groups, helps that load no torch and say what they should, values from a profile."""

import argparse
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from llava_hh.__main__ import VERBS, main
from llava_hh.command_line.numbers import SIZE
from llava_hh.command_line.parser import METHOD, MODEL, SECTIONS, ScriptParser
from llava_hh.command_line.profiles import read_profile
from llava_hh.command_line.script import parser_of_verbs, run_verb, script_parser
from llava_hh.report.tables import _command
from tests.support.repository import ROOT
from tests.support.verbs import parsers, script_of

SAY_IT = ("--seed", "--method", "runs", "results", "captions")  # their names say what they take
NAMES = [verb for verbs in VERBS.values() for verb in verbs]
NEVER_LOADED = {"torch", "transformers", "matplotlib", "scipy"}
PARSERS = {each.prog: each for name in NAMES for each in parsers(import_module(script_of(name)).parser())}
LOOK = f"""
import sys
from llava_hh.__main__ import main
try:
    main(sys.argv[1:])
except SystemExit as stopped:
    assert not stopped.code, stopped.code
print({NEVER_LOADED!r} & sys.modules.keys(), file=sys.stderr)
"""


def test_every_verb_is_a_script_and_every_script_a_verb():
    files = {path.stem for path in (ROOT / "llava_hh" / "scripts").glob("*.py")} - {"__init__", "flags"}
    assert files == {name.replace("-", "_") for name in NAMES} and len(files) <= 16


@pytest.mark.parametrize("given", [[], ["--help"], ["-h"]])
def test_the_verbs_are_listed_in_groups(given, capsys):
    main(given)
    said = capsys.readouterr().out
    for group, verbs in VERBS.items():
        assert f"\n{group}:\n" in said
        for verb, line in verbs.items():
            assert f"\n  {verb:<11} {line}\n" in said
    assert max(map(len, said.splitlines())) <= 100


def test_an_unknown_verb_is_one_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["captions"])
    said = capsys.readouterr()
    assert stopped.value.code == 2 and said.out == ""
    assert said.err.startswith("error: 'captions' is no verb of llava-hh; expected one of: explain, caption, ")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_help_loads_no_torch(name):
    """Nor does the help of a verb below a verb, which is made by the same parser."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK, name, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "set()"
    assert done.stdout.startswith(f"usage: llava-hh {name} ")


def test_python_m_is_the_same_command():
    assert '"llava-hh = llava_hh.__main__:program"' in (ROOT / "setup.py").read_text()
    done = subprocess.run(
        [sys.executable, "-m", "llava_hh", "no"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.startswith("error: 'no' is no verb")


@pytest.mark.parametrize("prog", PARSERS)
def test_a_help_says_what_it_should(prog):
    parser = PARSERS[prog]
    assert "(default: None)" not in parser.format_help()
    command = parser.format_help().split("example:\n")[-1].strip()
    assert command.startswith(f"{prog} "), "no example"
    parser.parse_args(shlex.split(command)[len(prog.split()) :])
    grouped = {id(action) for group in parser._action_groups[2:] for action in group._group_actions}
    assert {group.title for group in parser._action_groups[2:]} == set(SECTIONS)
    formatter = parser._get_formatter()
    for action in parser._actions:
        name = action.option_strings[-1] if action.option_strings else action.dest
        assert action.help and not action.help.endswith("."), name
        if name in ("--help", "--debug", "--plugin", "--profile"):
            continue
        assert id(action) in grouped or not action.option_strings, f"{name} stands in no section"
        if action.nargs != 0 and not action.choices:
            assert formatter._format_args(action, formatter._get_default_metavar_for_optional(action)), name
            shown = action.metavar or getattr(action.type, "metavar", None)
            assert shown and (shown != action.dest.upper() or name in SAY_IT), name
        if action.default not in (None, [], (), "", argparse.SUPPRESS) and action.default is not False:
            assert "default" in formatter._get_help_string(action), name


@pytest.mark.parametrize("name", NAMES)
def test_every_verb_takes_a_profile(name):
    own = [parser for prog, parser in PARSERS.items() if prog.split()[1] == name]
    taking = [parser for parser in own if any(action.dest == "profile" for action in parser._actions)]
    assert taking
    for parser in taking:
        assert isinstance(parser, ScriptParser)


def profiled() -> ScriptParser:
    parser = script_parser("A verb.", "try", "llava-hh try --profile mini")
    section = parser.section(MODEL)
    section.add_argument("--model", type=Path, metavar="FOLDER", required=True, help="a folder")
    section.add_argument("--top-k", type=SIZE, default=7, help="a number")
    section.add_argument("--prompt", metavar="TEXT", default="why", help="a question")
    truth = section.add_mutually_exclusive_group(required=True)
    truth.add_argument("--annotations", type=Path, metavar="FOLDER", help="a folder")
    truth.add_argument("--objects", type=Path, metavar="FILE", help="a file")
    add = parser.section(METHOD).add_argument
    add("--split", metavar="NAME", default="val2014", help="a split")
    add("--limit", type=SIZE, help="how many")
    add("--untie", action="store_true", help="a switch")
    add("--steps", type=Path, metavar="FOLDER", nargs="+", help="folders")
    add("--out", type=Path, metavar="FOLDER", required=True, help="a folder")
    parser.take_from_profile(
        model="{model_path}",
        top_k="{top_k}",
        prompt="{question}",
        annotations="{coco_path}/annotations",
        limit="{attribution_captions}",
        untie="{finetune_untie}",
        steps=lambda known: ["{base_model}", "{result_path}/{split}"],
        out="{result_path}/{split}-{limit|all}",
    )
    return parser


@pytest.fixture
def profile(monkeypatch, request) -> dict[str, str]:
    values = read_profile("mini") | {"question": "", "attribution_captions": "", "top_k": "3", "base_model": "a b"}
    values |= getattr(request, "param", {})
    monkeypatch.setattr("llava_hh.command_line.parser.read_profile", lambda name: values)
    monkeypatch.chdir(ROOT)
    return values


def test_a_profile_fills_what_is_not_given(profile):
    parser = profiled()
    args = parser.parse_args(["--profile", "mini"])
    assert args.model == Path(profile["model_path"]) and args.annotations == Path(profile["coco_path"], "annotations")
    assert (args.top_k, args.prompt, args.limit, args.untie) == (3, "why", None, True)
    assert args.steps == [Path("a b"), Path(profile["result_path"], "val2014")]
    assert args.out == Path(profile["result_path"], "val2014-all") and parser.given == {"profile"}


def test_a_flag_wins_over_the_profile(profile):
    parser = profiled()
    args = parser.parse_args(["--profile", "mini", "--top-k=7", "--objects=o", "--li", "5", "--split=s", "--mod=m"])
    assert (args.top_k, args.objects, args.annotations, args.model) == (7, Path("o"), None, Path("m"))
    assert args.out == Path(profile["result_path"], "s-5")
    assert parser.given == {"profile", "top_k", "objects", "limit", "split", "model"}


def test_paths_of_a_profile_count_from_the_root(profile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert profiled().parse_args(["--profile", "mini"]).model == ROOT / profile["model_path"]


def refused(parser: argparse.ArgumentParser, flags: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(flags)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1 and error.startswith("error: ")
    return error


@pytest.mark.parametrize("profile", [{"model_path": ""}], indirect=True)
def test_what_neither_gives_is_one_line(profile, capsys):
    assert "required: --model (or --profile NAME)" in refused(profiled(), ["--profile", "mini"], capsys)
    assert "required: --model, --out (or --profile NAME)" in refused(profiled(), ["--objects", "o"], capsys)
    error = refused(profiled(), ["--model", "m", "--out", "o"], capsys)
    assert "one of the arguments --annotations --objects is required (or --profile NAME)" in error
    assert "not allowed with" in refused(profiled(), ["--annotations", "a", "--objects", "o"], capsys)


@pytest.mark.parametrize("verb", ["caption", "evaluate"])
def test_a_folder_for_results_is_required(verb, capsys):
    flags = ["--model", "m", "--image-folder", "i", "--annotations", "a"]
    parser = import_module(f"llava_hh.scripts.{verb}").parser()
    assert "required: --out (or --profile NAME)" in refused(parser, flags, capsys)


def test_a_script_is_its_verb():
    command = [sys.executable, "-m", "llava_hh.scripts.convert"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: the following arguments are required: ")


@pytest.mark.parametrize("profile", [{"top_k": "none"}], indirect=True)
def test_a_value_of_a_profile_goes_through_the_flag_s_own_type(profile, capsys):
    error = refused(profiled(), ["--profile", "mini"], capsys)
    assert "--profile mini: argument --top-k: 'none': expected a whole number of at least 1" in error


def test_a_profile_that_is_not_there_is_one_line(capsys):
    assert "no such profile" in refused(profiled(), ["--profile", "no"], capsys)


def test_an_output_of_a_profile_that_is_an_input_is_refused(profile, capsys):
    out = f"{profile['result_path']}/val2014-all"
    assert "is an input of this run" in refused(profiled(), ["--profile", "mini", "--model", out], capsys)


def test_a_verb_below_a_verb(capsys):
    def work(args: argparse.Namespace) -> None:
        raise ValueError(f"{args.x} {args.argv}")

    parser = parser_of_verbs("Verbs.", "top")
    below = parser.verb("first", work, "llava-hh top first --x 2", "What it does: more.\n\nMuch more.")
    below.add_argument("--x", type=SIZE, default=1, help="a number")
    assert "first     What it does\n" in parser.format_help() and "Much more." in below.format_help()
    with pytest.raises(SystemExit) as stopped:
        run_verb(["first", "--x", "3"], parser=lambda: parser)
    assert stopped.value.code == 2 and capsys.readouterr().err == "error: 3 ['first', '--x', '3']\n"
    assert "required: WHAT" in refused(parser, [], capsys)
    assert "invalid choice: 'second'" in refused(parser, ["second"], capsys)


def test_mini_is_not_made_where_another_model_is_looked_for(capsys):
    from llava_hh.scripts import mini

    with pytest.raises(SystemExit) as stopped:
        mini.main(["base", "--profile", "llava-v1.5-7b"])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1
    assert error.startswith("error: --profile llava-v1.5-7b: its model is not mini's, below checkpoints/mini/")


def test_attribute_refuses_flags_that_do_not_go_together(capsys):
    parser = PARSERS["llava-hh attribute"]
    from llava_hh.scripts import attribute

    for flags, expected in (
        (["--of", "a", "--captions", "c", "--out", "o", "--screen", "3"], "--screen: does not go with --of"),
        (["--captions", "c", "--out", "o", "--with-object", "dog"], "--with-object: needs --of"),
        (["--captions", "c", "--out", "o"], "required: --model, --image-folder (or --profile NAME)"),
    ):
        parser.parse_args(flags)
        with pytest.raises(SystemExit) as stopped:
            attribute.main(flags)
        assert stopped.value.code == 2 and expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["llava-hh", "attribute", "--profile", "mini"], "attribute"),
        (["llava-hh", "figure", "bias", "--out", "o"], "figure bias"),
        (["attribute.py", "--model", "m"], "attribute"),
        (["llava-hh"], "llava-hh"),
    ],
)
def test_a_report_says_which_verb_made_a_run(argv, said):
    assert _command(argv) == said
