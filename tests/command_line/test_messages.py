"""What is printed: no control characters of others, in any encoding; what would have no end comes to one."""

import ast
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llava_hh.command_line.script import errors_in_one_line
from llava_hh.files.progress import say
from llava_hh.models import chat
from llava_hh.scripts import caption, doctor
from llava_hh.scripts.score import main as score
from tests.support.repository import ROOT

# these print the help, or lines of their own alone, or stand below `say`
PRINTING = ("__main__", "command_line/missing", "command_line/route", "files/signals", "command_line/launched")
PRINTING += ("files/progress", "files/processes", "files/locks", "scripts/doctor")
HOSTILE = "\x1b]0;title\x07\nerror: forged\x9b31m"


def is_plain(text: str) -> bool:
    return all(sign.isprintable() for line in text.splitlines() for sign in line)


def test_all_messages_go_through_one_function():
    for path in (ROOT / "llava_hh").rglob("*.py"):
        if path.relative_to(ROOT / "llava_hh").with_suffix("").as_posix() in PRINTING:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called not in ("print", "tqdm.write", "sys.stdout.write", "sys.stderr.write"), path


@pytest.mark.parametrize("error", [ValueError, lambda text: OSError(13, "no", text)], ids=["value", "file"])
def test_names_are_printed_without_control_characters(error, capsys):
    say(f"a {HOSTILE}")
    with pytest.raises(SystemExit), errors_in_one_line(debug=False):
        raise error(f"no key {HOSTILE}")
    output = capsys.readouterr()
    assert is_plain(output.out) and is_plain(output.err)
    assert len(output.err.splitlines()) == 1 and output.err.startswith("error: no key \\x1b]0;title\\x07 error: forged")


@pytest.mark.parametrize("flag", ["--out", "--model", "--prompt"])
def test_names_that_are_not_utf8_are_refused_before_the_work(flag, tmp_path, capsys):
    flags = {"--model": "m", "--annotations": "a", "--image-folder": "i", "--split": "val2014", "--out": "o"}
    flags[flag] = os.fsdecode(bytes(tmp_path) + b"/caf\xe9")
    with pytest.raises(SystemExit) as stopped:
        caption.main([word for pair in flags.items() for word in pair])
    (line,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and "caf\\udce9': not UTF-8; rename it, or give a link" in line


def test_doctor_refuses_a_profile_with_such_a_name(tmp_path, capsys):
    profile = tmp_path / "own.sh"
    profile.write_bytes(b"inherit=mini\nresult_path=results/caf\xe9\n")
    with pytest.raises(SystemExit) as stopped:
        doctor.main(["--profile", str(profile)])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: --result-path 'results/caf\\udce9': not UTF-8; rename it")


def test_signs_of_languages_and_tables_stay(capsys):
    text = "5\u00a0% می\u200cخواهم 👩\u200d🍳 \u3000 é"
    say(text)
    say("a\u202eb\u2028c\ud800d")
    assert capsys.readouterr().out == f"{text}\na\\u202eb\\u2028c\\ud800d\n"


def test_keys_of_json_and_flags(tmp_path, capsys):
    (tmp_path / "captions.jsonl").write_text(json.dumps({HOSTILE: 1}) + "\n")
    (tmp_path / "objects.jsonl").write_text('{"image_id": 1, "objects": []}\n')
    for flags in (["--objects", str(tmp_path / "objects.jsonl")], [f"--{HOSTILE}"]):
        with pytest.raises(SystemExit):
            score(["chair", "--captions", str(tmp_path / "captions.jsonl"), *flags])
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error") and is_plain(line)


@pytest.fixture
def spoilt(tiny_checkpoint, tiny_coco, tmp_path):
    """Change a copy of the checkpoint, then caption with it: the one line that it ends with, and its seconds."""

    def run(change) -> tuple[str, float]:
        folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
        change(folder)
        begun = time.monotonic()
        flags = ["--model", folder, "--annotations", tiny_coco / "annotations", "--image-folder", tiny_coco / "val2014"]
        with pytest.raises(SystemExit) as stopped:
            caption.main([*map(str, flags), "--split", "val2014", "--limit", "2", "--out", str(tmp_path / "out")])
        assert stopped.value.code == 2
        return folder, time.monotonic() - begun

    return run


def template(text: str):
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


def layers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 10**9
    (folder / "config.json").write_text(json.dumps(config))


def pipe(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (template("{{ raise_exception('\\x1b[31m') }}"), "fails on a question"),
        (
            template("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
            "not done after 1 s",
        ),
        (layers, "config.json: num_hidden_layers is 1,000,000,000; expected at most 10,000"),
        (pipe, "no config.json there"),
    ],
    ids=["template that fails", "template that loops", "layers", "pipe"],
)
def test_an_odd_checkpoint_ends_in_seconds_by_a_plain_line(change, said, spoilt, capsys, monkeypatch):
    monkeypatch.setattr(chat, "TEMPLATE_SECONDS", 1.0)
    folder, seconds = spoilt(change)
    line = capsys.readouterr().err.splitlines()[-1]
    assert said in line and str(folder) in line and is_plain(line) and seconds < 60


def test_a_pipe_as_a_file_of_rows_and_one_as_json(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "captions.jsonl").write_text('{"image_id": 1, "text": "a dog"}\n')
    for flags in (
        ("--captions", "captions.jsonl", "--objects", "pipe.json"),
        ("--captions", "pipe.json", "--objects", "x"),
    ):
        with pytest.raises(SystemExit):
            score(["chair", *(word if word.startswith("--") else str(tmp_path / word) for word in flags)])
        assert f"{tmp_path / 'pipe.json'}: " in capsys.readouterr().err


def test_a_caption_of_quotes_is_scored_in_seconds(tmp_path):
    (tmp_path / "captions.jsonl").write_text(json.dumps({"image_id": 1, "text": "'. \" " * 20_000}) + "\n")
    (tmp_path / "objects.jsonl").write_text('{"image_id": 1, "objects": []}\n')
    begun = time.process_time()
    score(["chair", "--captions", str(tmp_path / "captions.jsonl"), "--objects", str(tmp_path / "objects.jsonl")])
    assert time.process_time() - begun < 20


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0"},
        {"LC_ALL": "C", "PYTHONIOENCODING": "latin-1"},
    ],
    ids=lambda variables: "-".join(variables),
)
@pytest.mark.parametrize("name", [b"caf\xc3\xa9 \xe2\x98\x95", b"caf\xe9"], ids=["utf-8", "latin-1"])
def test_paths_of_other_encodings(name, variables, tmp_path):
    folder = os.fsencode(tmp_path) + b"/" + name
    os.mkdir(folder)
    for file, row in (
        (b"captions.jsonl", {"image_id": 1, "text": "a dog"}),
        (b"o.jsonl", {"image_id": 1, "objects": []}),
    ):
        with open(folder + b"/" + file, "w") as opened:
            opened.write(json.dumps(row) + "\n")
    words = [b"score", b"chair", b"--captions", folder + b"/captions.jsonl", b"--objects", folder + b"/o.jsonl"]
    done = subprocess.run(
        [os.fsencode(sys.executable), b"-m", b"llava_hh", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        check=False,
    )
    assert b"Traceback" not in done.stderr
    if done.returncode:  # refused, before the work
        assert (
            done.returncode == 2
            and done.stderr.startswith(b"error")
            and not os.path.exists(folder + b"/captions_eval_results.json")
        )
    else:
        assert os.path.exists(folder + b"/captions_eval_results.json")
