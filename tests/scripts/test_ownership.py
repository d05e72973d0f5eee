"""Scripts write over results of this package alone, and never over what they read."""

import ast
import json
import shutil
from pathlib import Path

import pytest

from llava_hh.files.files import is_ours, write_json, write_text
from llava_hh.scripts import attribute, export, figure
from tests.support.repository import ROOT
from tests.support.verbs import (
    compare_details,
    compare_heads,
    compare_runs,
    report_figures,
    report_html,
    score_benchmark,
    score_chair,
    score_vqa,
)

SAMPLES = [{"image_id": number} for number in range(4)]
COCO = {"info": {"year": 2014}, "images": [], "annotations": [], "categories": []}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(capsys, main, *flags: object) -> str:
    """The one line with which a script stops."""
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, flags)))
    assert stopped.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


def test_an_output_that_is_an_input_is_refused_by_every_parser(tmp_path, capsys):
    """Both are results of ours, so that nothing else would stop it."""
    heads = tmp_path / "heads.json"
    write_json(heads, {"hal_heads": [[0, 1], [1, 2]], "run": {}})
    other = shutil.copy(heads, tmp_path / "other.json")
    before = heads.read_bytes()
    (tmp_path / "link.json").symlink_to(heads)
    for out in (heads, tmp_path / "." / "heads.json", tmp_path / "link.json"):
        assert "is an input of this run" in refused(capsys, compare_heads, other, heads, "--out", out)
    folder = ("--of", tmp_path, "--captions", other, "--with-object", "dog", "--out", tmp_path)
    assert "is an input of this run" in refused(capsys, attribute.main, *folder)
    assert heads.read_bytes() == before


@pytest.mark.parametrize("name", ["notes.txt", "up.JSON", "x.safetensors", "other.jsonl"])
def test_results_take_no_place_of_any_other_file(name, inputs, capsys):
    (inputs / name).write_text('{"image_id": 9, "text": "mine"}')
    flags = ("--captions", inputs / "captions.jsonl", "--objects", inputs / "objects.jsonl", "--out", inputs / name)
    assert "no run of ours wrote it" in refused(capsys, score_chair, *flags)
    assert "mine" in (inputs / name).read_text()


def test_an_export_that_was_killed_goes_on(tmp_path, monkeypatch):
    heads, out = tmp_path / "heads.json", tmp_path / "adhh"
    write_json(heads, {"hal_heads": [[0, 1]], "run": {}})
    flags = ["--heads", str(heads), "--top-k", "1", "--out", str(out)]
    for n_files in range(4):
        written = []

        def dies(path, text, written=written, n_files=n_files):
            if len(written) == n_files:
                raise KeyboardInterrupt
            written.append(path)
            write_text(path, text)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("llava_hh.portable.export.write_text", dies)
            export.main(flags)
            raise KeyboardInterrupt  # all files were written
    export.main(flags)
    assert {path.name for path in out.rglob("*.*")} == {"generate.py", "requirements.txt", "heads.json", "README.md"}


@pytest.fixture
def inputs(tmp_path) -> Path:
    """Files of every kind that the scripts below read, and COCO's annotations."""
    folder = tmp_path / "inputs"
    (folder / "annotations").mkdir(parents=True)
    (folder / "annotations" / "instances_val2014.json").write_text(json.dumps(COCO))
    (folder / "captions.jsonl").write_text('{"image_id": 1, "text": "A dog."}\n')
    (folder / "objects.jsonl").write_text('{"image_id": 1, "objects": ["dog"]}\n')
    (folder / "answers.jsonl").write_text('{"question_id": 1, "text": "yes"}\n')
    truth = {"question_id": 1, "image_id": 1, "answers": [{"answer": "yes"}] * 10}
    (folder / "truth.json").write_text(json.dumps({"annotations": [truth]}))
    heads = {"hal_heads": [[1, 2], [0, 1]]}
    (folder / "heads.json").write_text(json.dumps(heads))
    return folder


def test_a_result_file_never_takes_the_place_of_a_data_file(inputs, capsys):
    annotations = inputs / "annotations" / "instances_val2014.json"
    before = contents(inputs)
    chair = ["--captions", inputs / "captions.jsonl", "--objects", inputs / "objects.jsonl"]
    vqa = ["--answers", inputs / "answers.jsonl", "--truth", inputs / "truth.json"]
    amber = ["--benchmark", "amber", "--answers", inputs / "answers.jsonl", "--annotations", inputs]
    for main, flags in (
        (score_chair, chair),
        (score_vqa, vqa),
        (score_benchmark, amber),
        (compare_runs, [inputs, inputs]),
    ):
        line = refused(capsys, main, *flags, "--out", annotations)
        assert f"{annotations}: is there already, and no run of ours wrote it" in line
    assert "is an input of this run" in refused(capsys, score_vqa, *vqa, "--out", inputs / "truth.json")
    assert contents(inputs) == before
    for main, flags, name, more in (
        (score_chair, chair, "captions_eval_results", ["--drop-incomplete"]),
        (score_vqa, vqa, "vqa_results", []),
    ):
        main(list(map(str, flags)))
        first = (inputs / f"{name}.json").stat().st_ino
        main(list(map(str, [*flags, *more])))
        assert (inputs / f"{name}.json").stat().st_ino != first


def test_an_export_leaves_a_repository_alone(inputs, tmp_path, capsys):
    flags = ["--heads", inputs / "heads.json", "--top-k", "2", "--out"]
    for name in ("README.md", "custom_generate/generate.py", "heads.json"):
        out = tmp_path / "repository" / name.replace("/", "_")
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("mine")
        refused(capsys, export.main, *flags, out)
        assert (out / name).read_text() == "mine"
    for _ in range(2):
        export.main(list(map(str, [*flags, tmp_path / "export"])))
    assert (tmp_path / "export" / "README.md").is_file()


def test_pages_of_others_stay(tiny_results, tmp_path, capsys):
    folder = tmp_path / "results" / "tiny"
    shutil.copytree(tiny_results, folder)
    index, page, figures = folder.parent / "index.html", folder / "report.html", folder / "figures.md"
    page.unlink(missing_ok=True)
    index.write_text("<title>My site</title>")
    report_html([str(folder)])
    assert index.read_text() == "<title>My site</title>"
    assert f"warning: {index}: no report of ours wrote it; left alone" in capsys.readouterr().err
    index.unlink()
    for _ in range(2):
        report_html([str(folder)])
    assert is_ours(index)
    page.write_text("<title>My report</title>")
    assert f"{page}: is there already" in refused(capsys, report_html, folder)
    figures.write_text("# My figures\n")
    assert f"{figures}: is there already" in refused(capsys, report_figures, folder)
    assert figures.read_text() == "# My figures\n"
    figures.unlink()
    for _ in range(2):
        report_figures([str(folder)])


@pytest.mark.parametrize("name", ["attribution_result.json", "head_map.png"])
@pytest.mark.parametrize("script", [attribute.main, figure.main, compare_details])
def test_folders_of_derived_results(name, script, tiny_results, tmp_path, capsys):
    attribution = next(tiny_results.rglob("attribution_result.json"))
    captions = next(tiny_results.rglob("captions_eval_results.json"))
    flags = {
        attribute.main: ["--of", attribution.parent, "--captions", captions],
        figure.main: ["modules", "--attribution", attribution],
        compare_details: [captions],
    }[script]
    names = {figure.main: "module_influence.json", compare_details: "chair_details.json"}
    own = tmp_path / (names.get(script, name) if name.endswith("json") else name)
    own.write_text("{}")
    refused(capsys, script, *flags, "--out", tmp_path)
    assert contents(tmp_path) == {own.name: b"{}"}


def calls_in(path: Path) -> set[str]:
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return {call.id if isinstance(call, ast.Name) else getattr(call, "attr", "") for call in calls}


def modules_imported_by(path: Path) -> list[Path]:
    """The package's modules that a file imports, wherever in it."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    files = (ROOT / f"{(node.module or '').replace('.', '/')}.py" for node in nodes)
    return [file for file in files if file.is_file() and file.name != "flags.py"]


def test_every_script_that_writes_asks_first():
    """By one of the doors: a run, a folder, the parent of a file; `evaluation_from_flags` opens the folder of --out."""
    doors = {"start_run", "make_folder", "make_parent", "evaluation_from_flags", "export_decoder", "convert_original"}
    doors |= {"opened_captions", "see_writable"}
    places = ("llava_hh/scripts", "llava_hh/scoring", "llava_hh/comparing", "baselines", "newer_models")
    for path in [path for place in places for path in (ROOT / place).glob("*.py")]:
        calls = calls_in(path)
        if {"write_json", "write_rows", "write_tensors"} & calls:
            assert doors & calls, path
        if '"--out"' in path.read_text():
            names = set().union(*(calls_in(module) for module in modules_imported_by(path)))
            assert doors & (calls | names), path
