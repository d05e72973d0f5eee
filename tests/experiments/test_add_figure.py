"""A figure of one's own is one file and one line: its measure, summary and drawing; the driver does the rest."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llava_hh.scripts import figure
from tests.support.repository import ROOT

OWN = '''
"""How sharp the attention of heads is where object words are predicted: one file, by somebody else."""

from llava_hh.command_line.numbers import FACTOR
from llava_hh.experiments.per_caption import CaptionFigure, Measured


class Sharpness(CaptionFigure):
    """The largest attention weight of each head, where an object word is predicted."""

    name, label, top_k = "sharpness", "sharpness", 2

    def add_flags(self, add):
        add("--power", type=FACTOR, default=1.0, help="of the weights")

    def measure(self, entry):
        from llava_hh.attention.hooks import record

        targets, positions, batch = self.teacher.prepare(entry)
        lvlm, heads = self.teacher.lvlm, self.heads()
        with record(lvlm.model, batch.image_mask, maps=heads) as trace:
            lvlm.model(**batch.inputs)
        largest = [float(trace.maps[layer][0][0, :, positions].max()) for layer, _ in heads]
        return {"image_id": entry["image_id"], "n_words": len(targets), "largest": largest}

    def summarise(self, found):
        largest = [max(row["largest"]) ** self.options["power"] for row in found.rows]
        return {"largest": max(largest), "n_captions": len(found.rows)}

    def lines(self, result):
        return [f"largest weight {result['largest']:.2f} in {result['n_captions']} captions"]

    def draw(self, source, out):
        from llava_hh.figures.style import plt, save_figure

        drawing, axis = plt.subplots()
        axis.bar(["largest"], [1.0])
        save_figure(drawing, out)
'''


@pytest.fixture
def flags(tiny_results, tiny_checkpoint, tiny_coco, tmp_path, monkeypatch) -> list[str]:
    """The figure is added: its file can be imported, and a line names it."""
    (tmp_path / "sharpness.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(figure.FIGURES, "sharpness", "sharpness:Sharpness")
    folder = tiny_results / "train2014"
    given = ["sharpness", "--model", tiny_checkpoint, "--captions", folder / "captions_eval_results.json"]
    given += ["--image-folder", tiny_coco / "train2014", "--batch-size", 2, "--out", tmp_path / "out"]
    given += ["--heads", folder / "identify_attention_head" / "attribution_result.json"]
    return [str(flag) for flag in given]


def test_a_figure_of_ones_own_runs_and_resumes(flags, tmp_path, capsys, monkeypatch):
    figure.main([*flags, "--limit", "3", "--power", "2"])
    result = json.loads((tmp_path / "out" / "sharpness.json").read_text())
    rows = [row for path in sorted((tmp_path / "out" / "blocks").glob("*.json")) for row in read_rows(path)]
    assert len(rows) == result["n_captions"] == 3
    assert [len(row["largest"]) for row in rows] == [2] * 3  # the default of --top-k is its own
    assert result["largest"] == max(np.max(row["largest"]) for row in rows) ** 2
    assert result["settings"]["limit"] == 3
    said = capsys.readouterr().out.splitlines()[-3:]
    assert said[0] == f"largest weight {result['largest']:.2f} in 3 captions"
    assert said[1:] == [str(tmp_path / "out" / f"sharpness.{ending}") for ending in ("json", "png")]
    assert (tmp_path / "out" / "sharpness.pdf").stat().st_size > 1000

    measured = []
    own = sys.modules["sharpness"].Sharpness
    measure = own.measure
    monkeypatch.setattr(own, "measure", lambda self, entry: measured.append(entry) or measure(self, entry))
    figure.main([*flags, "--limit", "3"])
    assert not measured
    figure.main([*flags, "--limit", "4"])
    assert len(measured) == 2  # the second block had one of its two captions


def read_rows(path: Path) -> list[dict]:
    return json.loads(path.read_text())["rows"]


def test_it_has_a_help_of_its_own(flags, capsys):
    for argv, said in (([], "largest attention weight"), (["sharpness"], "--power")):
        with pytest.raises(SystemExit) as stopped:
            figure.main([*argv, "--help"])
        assert stopped.value.code == 0
        assert said in capsys.readouterr().out


def test_wrong_input_is_one_line(flags, capsys):
    with pytest.raises(SystemExit) as stopped:
        figure.main([*flags, "--power", "-1"])
    assert stopped.value.code == 2
    assert "argument --power: '-1': expected a number of at least 0" in capsys.readouterr().err


@pytest.mark.parametrize("name", [None, *figure.FIGURES])
def test_a_help_loads_neither_torch_nor_matplotlib(name):
    look = """
import sys
from llava_hh.scripts import figure
try:
    figure.main(sys.argv[1:])
finally:
    print(sorted({"torch", "transformers", "matplotlib", "scipy"} & sys.modules.keys()), file=sys.stderr)
"""
    command = [sys.executable, "-c", look, *([name] if name else []), "--help"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stderr == "[]\n"


@pytest.mark.parametrize(
    ("name", "given", "made"),
    [
        ("words", {"--top-k": 2, "--limit": 3, "--batch-size": 2}, ["word_maps.json", "word_maps.safetensors"]),
        ("bias", {"--top-k": 2, "--limit": 3, "--batch-size": 2}, ["attention_bias.json", "attention_bias.png"]),
        ("modules", {}, ["module_influence.json", "module_influence.png"]),
    ],
)
def test_a_finished_figure_is_shown_again(name, given, made, flags, tiny_results, tmp_path, capsys, monkeypatch):
    """The same lines and files without a model; what is gone is made again from the finished blocks."""
    attribution = tiny_results / "train2014" / "identify_attention_head" / "attribution_result.json"
    argv = [name, "--attribution", attribution, "--out", tmp_path / "out"] if name == "modules" else [name, *flags[1:]]
    argv = [str(flag) for flag in (*argv, *(word for pair in given.items() for word in pair))]
    figure.main(argv)
    files = {file: (tmp_path / "out" / file).read_bytes() for file in made}
    said = capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr("llava_hh.attribution.captions.load_lvlm", lambda _: pytest.fail("a model was loaded"))
        figure.main(argv)
    again = capsys.readouterr()
    assert again.out.splitlines()[-3:] == said.splitlines()[-3:] and "warning" not in again.err
    assert {file: (tmp_path / "out" / file).read_bytes() for file in made} == files
    (tmp_path / "out" / made[1]).unlink()
    figure.main(argv)
    assert (tmp_path / "out" / made[1]).read_bytes() == files[made[1]]
