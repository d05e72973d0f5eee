"""Profiles are read alike by every sh and by Python: the same values, or the same line that says what is wrong."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from llava_hh.command_line.profiles import FOLDER, nearest, profile_names, read_profile
from tests.support.repository import ROOT

SHELLS = [shell for shell in ("sh", "dash", "bash", "busybox") if shutil.which(shell)]
READ = """cd "$1"
. bash_scripts/profile.sh
for name in $profile_settings head_list; do eval "printf '%s\\\\0%s\\\\0' $name \\"\\$$name\\""; done"""
BASE = "inherit=mini\n"


def by_shell(shell: str, profile: str, folder: Path) -> dict[str, str] | str:
    """The settings, or the line on stderr."""
    command = [shell, *(["sh"] if shell == "busybox" else []), "-euc", READ, "sh", str(ROOT)]
    environment = {**os.environ, "PROFILE": profile, "top_k": "leak", "model_path": "leak", "profile_value": "leak"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    if done.returncode:
        assert done.returncode == 2 and not done.stdout
        return os.fsdecode(done.stderr)
    assert not done.stderr
    parts = os.fsdecode(done.stdout).split("\0")
    return dict(zip(parts[::2], parts[1::2], strict=False))


def by_python(profile: str, folder: Path, monkeypatch) -> dict[str, str] | str:
    monkeypatch.chdir(folder)
    try:
        return read_profile(profile)
    except ValueError as error:
        return f"error: {error}\n"


def agreed(profile: str, folder: Path, monkeypatch) -> dict[str, str] | str:
    """What all readers say."""
    found = by_python(profile, folder, monkeypatch)
    for shell in SHELLS:
        assert by_shell(shell, profile, folder) == found, shell
    return found


@pytest.mark.parametrize("profile", profile_names())
def test_every_profile_is_read_alike(profile, tmp_path, monkeypatch):
    assert isinstance(agreed(profile, tmp_path, monkeypatch), dict)


VALUES = {  # content, and settings that are expected of it
    "blank lines and comments": (b"\n  \n\t# a\n#b=1\ntop_k=3 # c\n", {"top_k": "3"}),
    "quotes": (b'question="Is it a=b, it\'s # so?"  # yes\n', {"question": "Is it a=b, it's # so?"}),
    "blanks in quotes stay": (b'question="  a  b "\n', {"question": "  a  b "}),
    "nothing": (b"question=\n", {"question": ""}),
    "nothing in quotes": (b'question=""\n', {"question": ""}),
    "nothing but a comment": (b"question=  # none\n", {"question": ""}),
    "a hash within": (b"question=a#b\n", {"question": "a#b"}),
    "equals signs": (b"question=a=b==\n", {"question": "a=b=="}),
    "indented": (b"  top_k=3\n\tthreshold=0.5\t# x\n", {"top_k": "3", "threshold": "0.5"}),
    "CRLF": (b'inherit=mini\r\n# x\r\ntop_k=3\r\nquestion="a b"\r\n\r\n', {"top_k": "3", "question": "a b"}),
    "BOM": (b"\xef\xbb\xbftop_k=3\n", {"top_k": "3"}),
    "BOM and inherit": (b"\xef\xbb\xbfinherit=mini_full\n", {"batch_size": "50"}),
    "no last newline": (b"top_k=3\nthreshold=0.5", {"top_k": "3", "threshold": "0.5"}),
    "patterns of a shell": (b"question=*?[a]{b,c}!%^@:+-\n", {"question": "*?[a]{b,c}!%^@:+-"}),
    "a dash": (b"question=-n\n", {"question": "-n"}),
    "operators in quotes": (b'question="a|b;c&&d<e>(f)~"\n', {"question": "a|b;c&&d<e>(f)~"}),
    "any letters": (
        'question="ÀÁÂàáâÿ 猫 \u2028\u3000\xa0\x85 🐈"\n'.encode(),
        {"question": "ÀÁÂàáâÿ 猫 \u2028\u3000\xa0\x85 🐈"},
    ),
    "any letters without quotes": ("question=ÁÈ猫\xa0\u3000\x85x\n".encode(), {"question": "ÁÈ猫\xa0\u3000\x85x"}),
    "no letters": (
        b"question=" + bytes(range(128, 256)) + b"\n",
        {"question": os.fsdecode(bytes(range(128, 256)))},
    ),
    "folders": (b'model_path="nowhere | dataset | results"\n', {"model_path": "dataset"}),
    "folders that are not there": (b'model_path=" nowhere at all | no "\n', {"model_path": "nowhere at all"}),
    "empty folders": (b'model_path=" | no | "\n', {"model_path": "no"}),
    "a long list": (b"top_k=77\n", {"list_length": "77"}),
    "no number": (b"top_k=many\n", {"top_k": "many", "list_length": "30"}),
    "head list": (
        b'result_path="/a b/r"\nattribution_images=9\ndraw_seed=5\n',
        {"head_list": "/a b/r/train2014-9-seed5/identify_attention_head/attribution_result.json"},
    ),
}


@pytest.mark.parametrize("case", VALUES)
def test_odd_files_are_read_alike(case, tmp_path, monkeypatch):
    content, expected = VALUES[case]
    path = tmp_path / "own.sh"
    path.write_bytes(content if b"inherit" in content else BASE.encode() + content)
    if content.startswith(b"\xef"):
        path.write_bytes(content if b"inherit" in content else content.replace(b"\xbf", b"\xbfinherit=mini\n", 1))
    found = agreed(str(path), tmp_path, monkeypatch)
    assert isinstance(found, dict), found
    assert {name: found[name] for name in expected} == expected


WRONG = {  # content behind inherit=mini, number of the line, and what is said of it
    "no =": (b"top_k 3\n", 2, "expected name=value"),
    "only a name": (b"\ntop_k\n", 3, "expected name=value"),
    "no name": (b"=3\n", 2, "expected name=value"),
    "blanks around =": (b"top_k = 3\n", 2, "expected name=value"),
    "sourcing": (b". bash_scripts/profiles/mini.sh\n", 2, "expected name=value"),
    "if": (b"if true; then top_k=3; fi\n", 2, "expected name=value"),
    "export": (b"export top_k=3\n", 2, "expected name=value"),
    "two names": (b"top_k threshold=3\n", 2, "expected name=value"),
    "a name with other letters": ("tóp_k=3\n".encode(), 2, "expected name=value"),
    "a name with a control character": (b"top\x1b_k=3\n", 2, "expected name=value"),
    "an addition": (b"top_k+=3\n", 2, "expected name=value"),
    "blanks": (b"question=a b\n", 2, "question: a value with blanks stands in double quotes"),
    "a tab": (b"question=a\tb\n", 2, "question: a value with blanks stands in double quotes"),
    "a quote that does not end": (b'question="a b\n', 2, "question: a value with any of '\";&|<>()~ stands in"),
    "a quote in the middle": (b'question=a"b"\n', 2, "question: a value with any of '\";&|<>()~ stands in"),
    "single quotes": (b"question='a b'\n", 2, "question: a value with any of '\";&|<>()~ stands in"),
    "two values": (b"question=a;top_k=3\n", 2, "question: a value with any of '\";&|<>()~ stands in"),
    "a pipe": (b"model_path=a|b\n", 2, "model_path: a value with any of '\";&|<>()~ stands in"),
    "home": (b"model_path=~/models\n", 2, "model_path: a value with any of '\";&|<>()~ stands in"),
    "text after the quote": (b'question="a"b\n', 2, "question: expected nothing but a comment after"),
    "a comment right after the quote": (b'question="a"#b\n', 2, "question: expected nothing but a comment after"),
    "two quotes": (b'question="a" "b"\n', 2, "question: a value with blanks stands in double quotes"),
    "a variable": (b"model_path=$HOME/x\n", 2, "model_path: a value holds no $, backtick, backslash"),
    "a command": (b'model_path="$(touch made)"\n', 2, "model_path: a value holds no $, backtick, backslash"),
    "backticks": (b'model_path="`touch made`"\n', 2, "model_path: a value holds no $, backtick, backslash"),
    "a backslash": (b'question="a\\\\b"\n', 2, "question: a value holds no $, backtick, backslash"),
    "a carriage return": (b"question=a\rtop_k=3\n", 2, "question: a value holds no $, backtick, backslash"),
    "a tab in quotes": (b'question="a\tb"\n', 2, "question: a value holds no $, backtick, backslash"),
    "an escape": (b'question="a\x1bb\x7f"\n', 2, "question: a value holds no $, backtick, backslash"),
    "an unknown name": (b"treshold=0.4\n", 2, "treshold: no such setting; did you mean threshold?"),
    "a name in capitals": (b"TOP_K=3\n", 2, "TOP_K: no such setting; did you mean top_k?"),
    "a variable of a shell": (b"PATH=/nowhere\n", 2, "PATH: no such setting; did you mean "),
    "a name of the reader": (b"profile_value=3\n", 2, "profile_value: no such setting; did you mean "),
    "made of settings": (b"head_list=x\n", 2, "head_list: no such setting; did you mean "),
    "twice": (b"top_k=3\n\ntop_k=3\n", 4, "top_k: is set in a line above already"),
    "inherit below": (b"top_k=3\ninherit=mini\n", 3, "inherit: comes before all other settings"),
    "inherit twice": (b"inherit=mini_full\n", 2, "inherit: comes before all other settings"),
    "unknown and wrong": (b"treshold=a b\n", 2, "treshold: a value with blanks"),
    "the first of two": (b"# a\ntreshold=1\ntop_k 3\n", 3, "treshold: no such"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_lines_are_refused_alike(case, tmp_path, monkeypatch):
    content, number, expected = WRONG[case]
    path = tmp_path / "own.sh"
    path.write_bytes(BASE.encode() + content)
    found = agreed(str(path), tmp_path, monkeypatch)
    assert isinstance(found, str) and found.startswith(f"error: {path}, line {number}: {expected}"), found
    assert found[:-1].isprintable() and found.endswith("\n")
    assert not (tmp_path / "made").exists() and not (ROOT / "made").exists()


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ("inherit=llava", "inherit=llava: no such profile; choose one of: chameleon-30b "),
        ("inherit=./gone.sh", "inherit=./gone.sh: no such profile; choose one of: chameleon-30b "),
        ('inherit=""', "inherit: expected a profile"),
        ("inherit=a b", "inherit: a value with blanks"),
        ("inherit=$base", "inherit: a value holds no $"),
        ("inherit=own.sh", "inherit=own.sh: more than 10 files in a row, or in a circle"),
        ("inherit=./own.sh", "inherit=./own.sh: more than 10 files in a row, or in a circle"),
    ],
)
def test_what_is_wrong_with_inherit_is_said_alike(first, expected, tmp_path, monkeypatch):
    (tmp_path / "own.sh").write_text(f"\n# a comment\n{first}\n")
    found = agreed(str(tmp_path / "own.sh"), tmp_path, monkeypatch)
    assert isinstance(found, str) and f"own.sh, line 3: {expected}" in found and found.count("\n") == 1, found


def test_a_circle_of_two_ends(tmp_path, monkeypatch):
    (tmp_path / "a.sh").write_text("inherit=b.sh\n")
    (tmp_path / "b.sh").write_text("inherit=a.sh\n")
    assert "in a circle" in agreed("a.sh", tmp_path, monkeypatch)


def test_a_line_of_an_inherited_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "base.sh").write_text("inherit=mini\ntop_k=1\ntop_q=2\n")
    (tmp_path / "own.sh").write_text("inherit=base.sh\ntop_k 2\n")
    found = agreed(str(tmp_path / "own.sh"), tmp_path, monkeypatch)
    assert found == f"error: {tmp_path}/base.sh, line 3: top_q: no such setting; did you mean top_k?\n"


def test_a_file_inherits_from_one_seen_from_itself(tmp_path, monkeypatch):
    """Not from where the wrapper was started; a name in bash_scripts/profiles comes before a file."""
    folder = tmp_path / "a blank"
    (folder / "parts").mkdir(parents=True)
    (folder / "parts" / "base.sh").write_text("inherit=../top.sh\ntop_k=7\nthreshold=0.1\n")
    (folder / "top.sh").write_text("inherit=mini_full\ntop_k=6\nbatch_size=5\n")
    (folder / "own.sh").write_text('inherit="parts/base.sh"\nthreshold=0.2\n')
    (folder / "mini_full").write_text("what this is, nobody reads\n")
    for profile, start in [(str(folder / "own.sh"), tmp_path), ("own.sh", folder), ("a blank/own.sh", tmp_path)]:
        found = agreed(profile, start, monkeypatch)
        assert {name: found[name] for name in ("top_k", "threshold", "batch_size", "report_images")} == {
            "top_k": "7",
            "threshold": "0.2",
            "batch_size": "5",
            "report_images": "500",
        }


def test_values_that_a_profile_has_to_set(tmp_path, monkeypatch):
    path = tmp_path / "own.sh"
    path.write_text("")
    assert agreed(str(path), tmp_path, monkeypatch) == f"error: {path}: no value for model_path result_path\n"
    path.write_text('inherit=mini\nmodel_path=\ntop_k=""\nquestion=\nfinetune_seeds=?\n')
    assert agreed(str(path), tmp_path, monkeypatch) == f"error: {path}: no value for model_path top_k finetune_seeds\n"
    path.write_text("model_path=a\nresult_path=b\n")
    assert agreed(str(path), tmp_path, monkeypatch)["top_k"] == "20"


@pytest.mark.parametrize(
    "profile", ["llava", "gone.sh", "./gone.sh", "/nowhere/own.sh", "mini.sh", ".", "a folder", "*"]
)
def test_a_profile_that_is_not_there(profile, tmp_path, monkeypatch):
    (tmp_path / "a folder").mkdir()
    found = agreed(profile, tmp_path, monkeypatch)
    expected = f"choose one of: {' '.join(profile_names())}, or name the path of a file like those"
    assert found == f"error: PROFILE={profile}: no such profile; {expected}\n"


def test_zero_bytes(tmp_path, monkeypatch):
    """As a file has them whose end was lost in a crash."""
    (tmp_path / "own.sh").write_bytes(b"inherit=mini\ntop_k=3\n" + bytes(50))
    found = agreed("own.sh", tmp_path, monkeypatch)
    assert found == f"error: {tmp_path}/own.sh: holds zero bytes; expected lines of text\n"


def test_without_sh_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="PROFILE=mini: profiles are read by sh, which cannot be started"):
        read_profile("mini")


@pytest.mark.parametrize("profile", ["", "a\0b"])
def test_names_that_no_file_has(profile):
    with pytest.raises(ValueError, match="no such profile; choose one of: "):
        read_profile(profile)


def test_wrappers_find_a_profile_from_where_they_are_started(tmp_path):
    (tmp_path / "my own.sh").write_text("inherit=mini\nmodel_path=somewhere\n")
    stub = tmp_path / "python"
    stub.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{tmp_path}/calls"\n')
    stub.chmod(0o755)
    environment = {**os.environ, "PROFILE": "my own.sh", "PYTHON": str(stub)}
    subprocess.run(["sh", ROOT / "bash_scripts/doctor.sh"], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "calls").read_text().splitlines()[-2:] == ["--profile", f"{tmp_path}/my own.sh"]


def test_the_nearest_name_is_the_one_with_the_fewest_edits():
    assert nearest("treshold", ["top_k", "threshold"]) == "threshold"
    assert nearest("ab", ["ba", "abc", "a"]) == "abc"  # the first of those with one edit
    assert nearest("", ["abc", "ab"]) == "ab"


def test_profiles_hold_no_code():
    """They stay what sh would read the same way, should somebody source one."""
    for path in (ROOT / FOLDER).glob("*.sh"):
        assert subprocess.run(["sh", "-n", path], check=False).returncode == 0
        assert not {"$", "`", "\\"} & {*"".join(line.partition("#")[0] for line in path.read_text().splitlines())}
