"""The table of what is published where: README's is the same, and every profile can be fetched by it."""

import re
from pathlib import Path

import pytest

from llava_hh.command_line.profiles import profile_names, read_profile
from llava_hh.models.hub_id import read_id
from llava_hh.supplies.download import PARTS, checkpoints_of
from llava_hh.supplies.published import published, sources_of
from tests.support.repository import ROOT

PAGE = (ROOT / "checkpoints" / "README.md").read_text()
LINK = re.compile(r"\[([\w./-]+)\]\(https://huggingface\.co/([\w./-]+)\)")
NOT_FETCHED = {"TianyunYoung/minigpt4-finetuned"}  # beside a folder that its user writes
SIZES = {0.042: "42 MB", 0.092: "92 MB"}


def test_readme_has_the_repositories_and_sizes_of_the_table():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    linked = [(row, found) for row in rows for found in LINK.findall(row)]
    assert all(name == target for _, (name, target) in linked)
    assert {name for _, (name, _) in linked} - NOT_FETCHED == {own["id"] for own in published().values() if "id" in own}
    for name, entry in published().items():
        [row] = [row for row in rows if (entry.get("id", "") or entry.get("url")) in row and name in row.split("|")[1]]
        size = entry["gigabytes"]
        assert re.search(rf"\b{SIZES.get(size, f'{size:g}')}\b", row), (name, row)
        assert entry.get("revision", "") in row


def test_what_an_entry_needs_is_in_the_table():
    for name, entry in published().items():
        assert ("id" in entry) != ("url" in entry)
        assert {*entry.get("beside", ())} <= published().keys(), name
        if "id" in entry:
            assert read_id(entry["id"])


@pytest.mark.parametrize("profile", [name for name in profile_names() if not name.startswith("mini")] + ["minigpt4"])
def test_every_profile_can_be_fetched(profile, tmp_path):
    """As seen in an empty repository, but for the folders that name parts."""
    settings = read_profile(profile)
    for part in PARTS:
        for name in checkpoints_of(settings, part):
            (tmp_path / "checkpoints").mkdir(exist_ok=True)
            path = tmp_path / name
            if (ROOT / name / "config.json").is_file() and not path.exists():
                path.mkdir()
                (path / "config.json").write_bytes((ROOT / name / "config.json").read_bytes())
            sources = sources_of(path)
            assert sources and all(source.path.is_relative_to(tmp_path) for source in sources)
            assert len({source.path for source in sources}) == len(sources)


def names(path: Path) -> list[str]:
    return [str(source) for source in sources_of(path)]


def test_parts_and_companions(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    clip = f"{checkpoints}/clip-vit-large-patch14-336: openai/clip-vit-large-patch14-336, about 1.7 GB"
    model = f"{checkpoints}/llava-v1.5-7b: liuhaotian/llava-v1.5-7b, about 14 GB"
    assert names(checkpoints / "llava-v1.5-7b") == [model, clip]
    harness = checkpoints / "llava-v1.5-7b-harness"
    harness.mkdir(parents=True)
    (harness / "config.json").write_bytes((ROOT / "checkpoints/llava-v1.5-7b-harness/config.json").read_bytes())
    assert names(harness) == [model, clip]
    (checkpoints / "llava-1.5-7b-hf").mkdir()
    assert names(harness) == [f"{checkpoints}/llava-1.5-7b-hf: llava-hf/llava-1.5-7b-hf, about 14 GB"]
    step = checkpoints / "llava-v1.5-7b-instruction-tuning" / "checkpoint-500"
    repository = "TianyunYoung/llava-v1.5-7b-instruction-tuning-checkpoints"
    assert names(step) == [f"{step}: {repository}, checkpoint-500, about 14 GB", clip]


def test_minigpt4_is_made_of_three(tmp_path):
    folder = tmp_path / "checkpoints" / "minigpt4"
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes((ROOT / "checkpoints/minigpt4/config.json").read_bytes())
    language, tower, projector = names(folder)
    assert language == f"{tmp_path}/checkpoints/Llama-2-7b-chat-hf: meta-llama/Llama-2-7b-chat-hf, about 13 GB"
    assert tower.startswith(f"{tmp_path}/checkpoints/eva_vit_g.pth: https://storage.googleapis.com/")
    file = f"{tmp_path}/baselines/model_checkpoints/pretrained_minigpt4_llama2_7b.pth"
    assert projector == f"{file}: juliozhao/pretrained_minigpt4_llama2_7b@0db7eb3, about 0.092 GB"


def test_a_checkpoint_that_nobody_publishes(tmp_path):
    with pytest.raises(ValueError, match=f"^{tmp_path}/mine: not there, and nobody whom we know of publishes a mine; "):
        sources_of(tmp_path / "mine")
    (tmp_path / "mine").mkdir()
    assert sources_of(tmp_path / "mine") == []
