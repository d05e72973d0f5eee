"""The notebooks: they run on mini without an error, and what is committed of them is small and names no one's paths."""

import json
import re
from pathlib import Path

import pytest

from tests.support.repository import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SECONDS = 300  # of a cell, on a slow machine
LARGEST = 300_000  # bytes


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, mini_path, monkeypatch):
    """In a kernel of its own, with one thread."""
    import nbclient  # development alone needs it
    import nbformat

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}
    nbclient.NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=where).execute()
    texts = [output["text"] for cell in notebook.cells for output in cell.get("outputs", ()) if "text" in output]
    assert texts and not any("Warning" in text for text in texts)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_with_small_outputs(path):
    assert path.stat().st_size <= LARGEST
    cells = [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs and not [output for output in outputs if output["output_type"] == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    text = "".join("".join(output.get("text", ())) for output in outputs) + "".join(
        "".join(cell["source"]) for cell in read(path)["cells"]
    )
    assert not re.search(r"(?<![\w.])/(home|root|tmp|work|usr|Users)\b", text)


def test_the_notebooks_go_on_from_each_other():
    assert [path.stem for path in NOTEBOOKS] == ["01_find_heads", "02_switch_them_off", "03_what_a_head_reads"]
    for path, after in zip(NOTEBOOKS, NOTEBOOKS[1:], strict=False):
        assert f"({after.name})" in "".join(read(path)["cells"][-1]["source"])
