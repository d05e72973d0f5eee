"""Verbs take org/name of the hub wherever they take a checkpoint; of several processes one fetches."""

import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from llava_hh.command_line.parser import CHECKPOINT, ScriptParser
from llava_hh.command_line.script import script_parser
from llava_hh.decoding.making import path_of
from llava_hh.decoding.reading import read_methods
from llava_hh.models.hub import _snapshot
from llava_hh.models.hub_id import HubId
from llava_hh.scripts import attribute, caption, convert, evaluate, explain, figure, finetune
from llava_hh.scripts.doctor import main as doctor
from tests.support.hub_server import environment_of, serving
from tests.support.launching import launching
from tests.support.main_job import caption_flags
from tests.support.repository import ROOT
from tests.support.tiny_matchers import save_tiny_blip, save_tiny_dino


def test_captions_of_a_repository_with_and_then_without_the_server(
    hub, tiny_checkpoint, tiny_coco, tmp_path, monkeypatch
):
    """They are the folder's, byte for byte; run.json has name and commit. The second time nothing is asked."""
    commit = hub.add("org/tiny", tiny_checkpoint)
    caption.main(caption_flags("org/tiny", tiny_coco, tmp_path / "first"))
    caption.main(caption_flags(tiny_checkpoint, tiny_coco, tmp_path / "folder"))
    with serving() as gone:
        pass
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", gone.url)
    hub.asked.clear()
    _snapshot.cache_clear()
    for out in ("first", "second"):
        caption.main(caption_flags("org/tiny", tiny_coco, tmp_path / out))
    assert not hub.asked
    rows = {out: (tmp_path / out / "captions.jsonl").read_bytes() for out in ("first", "second", "folder")}
    assert rows["first"] == rows["second"]
    texts = [[json.loads(line)["text"] for line in content.splitlines()] for content in rows.values()]
    assert texts[0] == texts[2]
    models = {out: json.loads((tmp_path / out / "run.json").read_text())["settings"]["model"] for out in rows}
    assert models["first"]["sha256"] == models["folder"]["sha256"]
    assert models["first"]["hub"] == {"id": "org/tiny", "commit": commit} and models["first"]["name"] == "org/tiny"


def test_a_run_goes_on_whether_its_model_is_named_or_a_folder(hub, tiny_checkpoint, tiny_coco, tmp_path):
    """The model is known by its content: the same run, its finished blocks are kept."""
    hub.add("org/tiny", tiny_checkpoint)
    caption.main(caption_flags("org/tiny", tiny_coco, tmp_path / "out"))
    blocks = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "blocks").iterdir()}
    caption.main(caption_flags(tiny_checkpoint, tiny_coco, tmp_path / "out"))
    assert blocks == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "blocks").iterdir()}


@pytest.mark.parametrize(
    ("parser", "flags", "name"),
    [
        (caption.parser, [], "model"),
        (explain.parser, [], "model"),
        (evaluate.parser, [], "model"),
        (explain.parser, [], "model"),
        (attribute.parser, [], "model"),
        (finetune.parser, [], "model"),
        (convert.parser, [], "model"),
        (figure.parser, ["bias"], "model"),
        (figure.parser, ["inheritance"], "base_model"),
        (figure.parser, ["divergence"], "reference"),
    ],
)
def test_flags_of_checkpoints(parser, flags, name):
    """All of them, found in the parsers: a new one has to stand here."""
    known = parser()
    below = known.verbs.choices[flags[0]] if flags else known
    action = next(action for action in below._actions if action.dest == name)
    assert action.type("org/name@v1") == HubId("org/name", "v1") and action.metavar == CHECKPOINT
    assert action.type("checkpoints/name") == Path("checkpoints/name")
    named = {action.dest for action in below._actions if action.metavar == CHECKPOINT}
    assert named <= {"model", "base_model", "reference"}


def test_a_profile_names_a_repository(tmp_path, monkeypatch):
    """Wherever one stands, it is no path that counts from the repository's root."""
    (tmp_path / "own.sh").write_text("inherit=mini\nmodel_path=org/tiny\n")
    parser: ScriptParser = script_parser("", "x", "x")
    parser.flags("model and images")("--model", CHECKPOINT, "", "{model_path}")
    for folder in (ROOT, tmp_path):
        monkeypatch.chdir(folder)
        assert parser.parse_args(["--profile", str(tmp_path / "own.sh")]).model == HubId("org/tiny")


def test_methods_and_tools(hub, tiny_checkpoint, tmp_path):
    """A fine-tuned checkpoint, and HALC's detector and scorer."""
    from llava_hh.baselines.halc.settings import HalcSettings

    hub.add("org/tuned", tiny_checkpoint)
    [spec] = read_methods(['tfhh:path="org/tuned"'])
    assert path_of(spec).parent.parent.name == "models--org--tuned"
    save_tiny_dino(tmp_path / "dino")
    save_tiny_blip(tmp_path / "blip")
    for name in ("dino", "blip"):
        hub.add(f"org/{name}", tmp_path / name)
    tools = HalcSettings(detector="org/dino", scorer="org/blip").tools()
    assert [tools[name].parent.parent.name for name in ("detector", "scorer")] == [
        "models--org--dino",
        "models--org--blip",
    ]


def test_errors_are_one_line(hub, tiny_coco, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        caption.main(caption_flags("org/none", tiny_coco, tmp_path))
    [line] = [line for line in capsys.readouterr().err.splitlines() if line]
    assert stopped.value.code == 2 and line.startswith("error: org/none: no such repository at http://127.0.0.1")
    assert "`hf download org/none`, or give the path of a folder" in line and not list(tmp_path.glob("*.json"))


def test_doctor_looks_only_into_the_cache(hub, tiny_checkpoint, tmp_path, capsys):
    hub.add("org/tiny", tiny_checkpoint)
    (tmp_path / "own.sh").write_text(f"inherit=mini\nmodel_path=org/tiny\nresult_path={tmp_path}\n")

    def checked() -> str:
        with suppress(SystemExit):  # where mini's data is not there
            doctor(["--profile", str(tmp_path / "own.sh")])
        return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("checkpoint "))

    assert "FAIL     org/tiny: no config.json there" in checked() and not hub.asked
    caption_of = ["--model", "org/tiny", "--out", str(tmp_path / "x")]
    with pytest.raises(SystemExit):
        convert.main(caption_of)  # fetched, and then refused: it is no original
    hub.asked.clear()
    assert "ok       llava, 1 weight files" in checked() and not hub.asked


def test_of_two_processes_one_fetches(hub, tiny_checkpoint, tiny_coco, tmp_path):
    hub.add("org/tiny", tiny_checkpoint)
    command = launching(2, "llava_hh", ["caption", *caption_flags("org/tiny", tiny_coco, tmp_path / "out")])
    environment = {**os.environ, **environment_of(hub, tmp_path / "shared"), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(hub.fetched()) == len({*hub.fetched()}) and "model.safetensors" in hub.fetched()
    assert len((tmp_path / "out" / "captions.jsonl").read_text().splitlines()) == 14
