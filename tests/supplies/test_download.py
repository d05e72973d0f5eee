"""`llava-hh download`: what a profile lacks is printed, fetched and tested; what is there stays."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

from llava_hh.scripts.download import PARTS, main
from llava_hh.supplies import download, published
from tests.support.coco_zips import archives_of
from tests.support.hub_server import environment_of, write_repository
from tests.support.repository import ROOT

SHARDS = ["pytorch_model.bin.index.json", "pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin"]
CLIP = "clip-vit-large-patch14-336"


@pytest.fixture
def place(hub, tiny_coco, tmp_path) -> Path:
    """The folder of a profile; the server has all that it needs."""
    repositories = tmp_path / "repositories"
    files = (*SHARDS, "mm_projector.bin", "tokenizer.model", "model.gguf")
    hub.add("liuhaotian/llava-v1.5-7b", write_repository(repositories / "llava", *files))
    hub.add(f"openai/{CLIP}", write_repository(repositories / "clip", "pytorch_model.bin", "tf_model.h5"))
    hub.files.update(archives_of(tiny_coco))
    write_profile(tmp_path, model_path="checkpoints/llava-v1.5-7b")
    return tmp_path


def write_profile(folder: Path, **settings: str) -> None:
    paths = {"coco_path": "dataset/coco", "result_path": "results", "nocaps_path": "", **settings}
    lines = [f'{name}="{value and folder / value}"\n' for name, value in paths.items()]
    (folder / "profile.sh").write_text("".join(lines))


def flags(hub, place: Path, *more: str) -> list[str]:
    return ["--profile", str(place / "profile.sh"), "--coco-url", hub.url, *more]


def files_in(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts
    }


def refused(capsys, *given: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([*given])
    assert stopped.value.code == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_the_parts_of_the_verb_are_those_that_are_fetched():
    assert set(PARTS) == set(download.PARTS)


def test_a_profile_is_fetched_once(hub, place, capsys):
    main(flags(hub, place))
    said = capsys.readouterr().out.splitlines()
    folder = place / "checkpoints" / "llava-v1.5-7b"
    assert said[:2] == [
        f"{folder}: liuhaotian/llava-v1.5-7b, about 14 GB",
        f"{folder.with_name(CLIP)}: openai/{CLIP}, about 1.7 GB",
    ]
    assert said[-1].startswith("all there; ")
    assert files_in(folder) == {"config.json", "tokenizer.model", *SHARDS}
    assert files_in(folder.with_name(CLIP)) == {"config.json", "pytorch_model.bin"}
    coco = place / "dataset" / "coco"
    assert {path.name for path in coco.iterdir()} == {"train2014", "val2014", "annotations"}
    hub.asked.clear()
    main(flags(hub, place))
    assert not hub.fetched() and not any(".zip" in line for line in hub.asked)
    assert f"all there, in {folder}" in capsys.readouterr().out


def test_sizes_are_printed_before_anything_large_is_fetched(hub, place, capsys, monkeypatch):
    """A disk without room stops it there: only configurations and an index were fetched."""
    usage = namedtuple("usage", "total used free")(10, 1, 9)
    monkeypatch.setattr("llava_hh.files.disk.shutil.disk_usage", lambda _: usage)
    with pytest.raises(SystemExit):
        main(flags(hub, place))
    printed = capsys.readouterr()
    assert "liuhaotian/llava-v1.5-7b, commit " in printed.out and ": 3 files, " in printed.out
    zip_size = len(hub.files["/zips/val2014.zip"]) / 1e3
    assert f"{hub.url}/zips/val2014.zip: {zip_size:.0f} kB to fetch, of {zip_size:.0f} kB" in printed.out
    assert "are needed there, 0 kB are free" in printed.err
    assert {*hub.fetched()} == {"config.json", "pytorch_model.bin.index.json"}


def test_a_killed_download_goes_on(hub, place):
    """kill -9 while an archive comes in: the same command asks for the rest of it, and for nothing twice."""
    zips = "/zips/train2014.zip"
    environment = {**os.environ, **environment_of(hub, place / "home"), "PYTHONPATH": str(ROOT)}
    hub.cut += [zips] * 100  # halves without end
    command = [sys.executable, "-m", "llava_hh", "download", *flags(hub, place)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    part = place / "dataset" / "coco" / "train2014.zip.fetched"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = part.stat().st_size
    assert 0 < done < len(hub.files[zips])
    hub.cut.clear()
    hub.asked.clear()
    main(flags(hub, place))
    assert [line for line in hub.asked if line.startswith(f"GET {zips}")] == [f"GET {zips} bytes={done}-"]
    assert not hub.fetched()
    assert len(list((place / "dataset" / "coco" / "train2014").iterdir())) == 14


def test_archives_of_ones_own_are_used_and_kept(hub, place):
    coco = place / "dataset" / "coco"
    coco.mkdir(parents=True)
    (coco / "val2014.zip").write_bytes(hub.files["/zips/val2014.zip"])
    main(flags(hub, place, "--parts", "coco"))
    assert (coco / "val2014.zip").exists() and not any("zips/val2014" in line for line in hub.asked)
    assert not any("api" in line for line in hub.asked)


def test_what_is_there_stays_and_is_tested(hub, place, capsys):
    """A config.json may have been changed on purpose; weights must be the hub's."""
    folder = place / "checkpoints" / "llava-v1.5-7b"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llava", "prompt": "vicuna_v1"}))
    main(flags(hub, place, "--parts", "model"))
    assert json.loads((folder / "config.json").read_text())["prompt"] == "vicuna_v1"
    (folder / SHARDS[1]).write_text("other")
    line = refused(capsys, *flags(hub, place, "--parts", "model"))
    assert (
        f"{folder / SHARDS[1]}: not what liuhaotian/llava-v1.5-7b has under this name, by its sha256; delete it" in line
    )
    (folder / SHARDS[1]).unlink()
    hub.asked.clear()
    main(flags(hub, place, "--parts", "model"))
    assert hub.fetched() == [SHARDS[1]]


def test_other_parts(hub, place, tmp_path, monkeypatch):
    """Companions of figures, a checkpoint in a folder of its repository; HALC's tools; a repository that is named."""
    tuning = "llava-v1.5-7b-instruction-tuning"
    settings = {"model_path": "checkpoints/llava-v1.5-7b", "training_steps": f"checkpoints/{tuning}"}
    settings |= {"halc_scorer": "checkpoints/blip-itm-base-coco"}
    write_profile(place, **settings)
    named = 'training_checkpoints="checkpoint-500 checkpoint-1000"\nhalc_detector=org/dino\n'
    (place / "profile.sh").write_text((place / "profile.sh").read_text() + named)
    steps = tmp_path / "repositories" / "tuning"
    for step in ("checkpoint-500", "checkpoint-1000", "checkpoint-1500"):
        write_repository(steps / step, "model.safetensors", "optimizer.pt")
    hub.add(f"TianyunYoung/{tuning}-checkpoints", steps)
    hub.add("Salesforce/blip-itm-base-coco", write_repository(tmp_path / "repositories/blip", "model.safetensors"))
    dino = write_repository(tmp_path / "repositories/dino", "model.safetensors", model_type="grounding-dino")
    hub.add("org/dino", dino)
    main(flags(hub, place, "--parts", "figures", "halc"))
    expected = {f"{step}/{name}" for step in ("checkpoint-500", "checkpoint-1000") for name in ("config.json", WHOLE)}
    assert files_in(place / "checkpoints" / tuning) == expected
    assert files_in(place / "checkpoints" / "blip-itm-base-coco") == {"config.json", WHOLE}
    [snapshot] = (tmp_path / "home/hub/models--org--dino/snapshots").iterdir()
    assert {path.name for path in snapshot.iterdir()} == {"config.json", WHOLE}


WHOLE = "model.safetensors"


def test_minigpt4(hub, place, tmp_path, monkeypatch):
    """Llama-2 of one repository, a file of another at a revision, a file of another server."""
    folder = place / "checkpoints" / "minigpt4"
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes((ROOT / "checkpoints/minigpt4/config.json").read_bytes())
    write_profile(place, model_path="checkpoints/minigpt4")
    file = "pretrained_minigpt4_llama2_7b.pth"
    hub.add("meta-llama/Llama-2-7b-chat-hf", write_repository(tmp_path / "repositories/llama", WHOLE))
    hub.add(
        "juliozhao/pretrained_minigpt4_llama2_7b",
        write_repository(tmp_path / "repositories/projector", file),
        "0db7eb3",
    )
    hub.files["/eva.pth"] = b"eva" * 100
    table = {**published.published(), "eva_vit_g.pth": {"url": f"{hub.url}/eva.pth", "gigabytes": 2}}
    monkeypatch.setattr(published, "published", lambda: table)
    main(flags(hub, place, "--parts", "model"))
    assert (place / "checkpoints/eva_vit_g.pth").read_bytes() == hub.files["/eva.pth"]
    assert files_in(place / "baselines" / "model_checkpoints") == {file}
    assert files_in(place / "checkpoints" / "Llama-2-7b-chat-hf") == {"config.json", WHOLE}


def test_refusals(hub, place, capsys):
    assert "mini is made, not fetched; sh bash_scripts/quickstart.sh makes it" in refused(capsys, "--profile", "mini")
    write_profile(place, model_path="checkpoints/mine")
    assert "nobody whom we know of publishes a mine" in refused(capsys, *flags(hub, place))
    write_profile(place, model_path="checkpoints/llava-v1.5-7b")
    hub.readers["liuhaotian/llava-v1.5-7b"] = {"good"}
    assert "liuhaotian/llava-v1.5-7b: a gated repository (401)" in refused(capsys, *flags(hub, place))
    hub.files.clear()
    line = refused(capsys, *flags(hub, place, "--parts", "coco"))
    assert f"{hub.url}/zips/train2014.zip: its server answers 404" in line


def test_the_wrapper(hub, place):
    """download.sh takes PROFILE, and flags at its end."""
    environment = {**os.environ, **environment_of(hub, place / "home"), "PYTHON": sys.executable}
    environment["PROFILE"] = str(place / "profile.sh")
    command = ["sh", ROOT / "bash_scripts/download.sh", "--coco-url", hub.url, "--parts", "coco"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    assert len(list((place / "dataset" / "coco" / "val2014").iterdir())) == 14
