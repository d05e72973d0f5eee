"""docs/files.md has every key of every result file that the verbs write, with its type and unit, and no other."""

from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.support.documented import Documented
from tests.support.files_made import make_files
from tests.support.modes import of_other_modes
from tests.support.repository import ROOT

PAGE = ROOT / "docs" / "files.md"
OF_TRANSFORMERS = "trainer_state.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files") / "made"
    make_files(folder)
    return folder


def result_files(folder: Path, ending: str) -> list[Path]:
    found = [path for path in sorted(folder.rglob(f"*{ending}")) if not path.name.startswith(".")]
    inside = [path.parent for path in folder.rglob("config.json")]
    own = [path for path in found if path.parent not in inside or path.name == "manifest.json"]
    return [path for path in own if path.name != OF_TRANSFORMERS]


def test_every_key_of_every_file_is_documented_and_the_other_way_round(made):
    page, problems = Documented(PAGE), []
    for ending in (".json", ".jsonl"):
        for path in result_files(made, ending):
            problems += page.check(path)
    for path in result_files(made, ".safetensors"):
        problems += page.check_arrays(path, load_file(path))
    assert not sorted(set(problems))
    assert not page.unseen()


def test_every_file_has_the_mode_that_the_umask_says(made):
    """Weights of a fine-tuning too, in its checkpoints and in the model's folder."""
    assert not of_other_modes(made)


def test_every_documented_key_has_a_unit_a_meaning_and_an_example_of_its_type():
    assert not list(Documented(PAGE).flaws())
