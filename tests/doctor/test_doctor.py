"""doctor on sound profiles, and on ones with one thing broken each: exactly that line is red."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from llava_hh.command_line.profiles import read_profile
from llava_hh.doctor import examination as doctor
from llava_hh.runs.identity import identify_checkpoint
from llava_hh.scripts.doctor import main
from tests.support.examined import examine, set_setting, write_profile
from tests.support.repository import ROOT
from tests.support.tiny_checkpoint import save_tiny_checkpoint, write_tiny_coco
from tests.support.tiny_newer import FAMILIES, save_tiny_family


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    save_tiny_checkpoint(folder / "model")
    write_tiny_coco(folder / "coco", 6)
    return folder


@pytest.fixture
def patient(sound, tmp_path) -> Path:
    """A folder with a model, COCO and a profile of its own, to be broken."""
    folder = tmp_path / "patient"
    shutil.copytree(sound, folder)
    write_profile(folder)
    return folder


def test_a_sound_profile(patient, capsys):
    found = examine(patient, capsys)
    assert {mark for mark, _ in found.values()} == {"ok"}
    assert "image at 1 to 4 (4 of its tokens), then" in found["token layout"][1]
    assert found["heads"][1].startswith("none yet")
    assert not (patient / "results").exists()  # it writes nothing


def change_config(folder: Path, **fields: object) -> None:
    path = folder / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change_weights(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / "model" / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def change_one(folder: Path, change: Callable[[dict, str], object]) -> None:
    """Change the tensors by the name of one of them."""
    change_weights(
        folder, lambda tensors: change(tensors, next(key for key in tensors if key.endswith("1.mlp.up_proj.weight")))
    )


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def lose_shard(folder: Path) -> None:
    """Let the weights be two shards by their index, the second of which is not there."""
    whole = folder / "model" / "model.safetensors"
    names = [f"model-{number:05d}-of-00002.safetensors" for number in (1, 2)]
    places = {key: names[place % 2] for place, key in enumerate(load_file(whole))}
    (folder / "model" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    whole.rename(folder / "model" / names[0])


def write_heads(folder: Path, heads: list, **about: object) -> Path:
    draw = folder / "results" / "tiny" / f"train2014-{read_profile('mini')['attribution_images']}-seed42"
    path = draw / "identify_attention_head" / "attribution_result.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"hal_heads": heads, "non_hal_heads": [[3, 0], [3, 1]], **about}))
    return path


FAULTS = {
    "no checkpoint": ("checkpoint", lambda f: shutil.rmtree(f / "model"), "no config.json"),
    "model type": ("checkpoint", lambda f: change_config(f, model_type="llama"), "'llama' is not supported"),
    "no weights": ("checkpoint", lambda f: (f / "model" / "model.safetensors").unlink(), "no weight files"),
    "cut weights": ("checkpoint", lambda f: cut(f / "model" / "model.safetensors", 0.6), "model.safetensors"),
    "missing shard": ("checkpoint", lambda f: lose_shard(f), "model-00002-of-00002.safetensors"),
    "missing tensor": ("weights", lambda f: change_one(f, lambda t, key: t.pop(key)), "up_proj"),
    "renamed key": ("weights", lambda f: change_one(f, lambda t, key: t.update({f"x{key}": t.pop(key)})), "up_proj"),
    "other shape": ("weights", lambda f: change_one(f, lambda t, key: t.update({key: t[key][:3].clone()})), "up_proj"),
    "NaN": ("weights", lambda f: change_one(f, lambda t, key: t[key].fill_(float("nan"))), "NaN or infinite"),
    "no captions": ("annotations", lambda f: (f / "coco/annotations/captions_val2014.json").unlink(), "no such file"),
    "cut instances": ("annotations", lambda f: cut(f / "coco/annotations/instances_train2014.json", 0.9), "cut off"),
    "other rows": (
        "annotations",
        lambda f: (f / "coco/annotations/instances_val2014.json").write_text('{"annotations": [{"id": 1}]}'),
        "expected rows with image_id and category_id",
    ),
    "no images": ("images", lambda f: shutil.rmtree(f / "coco" / "val2014"), "no such image"),
    "cut image": ("images", lambda f: [cut(path, 0.5) for path in (f / "coco/train2014").iterdir()], "damaged image"),
    "no image in the prompt": (
        "weights",
        lambda f: (f / "model" / "chat_template.jinja").write_text("{{ messages[0].content[-1].text }}"),
        "writes <image> 0 times; expected 1",
    ),
    "head outside": ("heads", lambda f: write_heads(f, [[1, 2], [4, 0]]), "no head L4H0"),
    "another model's heads": (
        "heads",
        lambda f: write_heads(f, [[1, 2], [0, 0]], settings={"model": {"sha256": "0"}}),
        "found on another model",
    ),
    "few heads": ("heads", lambda f: write_heads(f, [[1, 2]]), "1 heads, the profile's top_k is 2"),
    "few heads for another number": (
        "heads",
        lambda f: (write_heads(f, [[1, 2], [0, 0]]), set_setting(f, "part_top_k", 3)),
        "hal_heads has 2 heads, the profile's part_top_k is 3",
    ),
    "few of the other heads": (
        "heads",
        lambda f: (write_heads(f, [[1, 2], [0, 0], [0, 1]]), set_setting(f, "bias_top_k", 3)),
        "non_hal_heads has 2 heads, the profile's bias_top_k is 3",
    ),
    "more heads than there are": (
        "heads",
        lambda f: set_setting(f, "top_k", 17),
        "the model has 16 heads: hal_heads has 16 heads, the profile's top_k is 17",
    ),
    "few published heads": (
        "heads",
        lambda f: (set_setting(f, "published_heads", write_heads(f, [[1, 2]])), set_setting(f, "removal_top_k", 2)),
        "hal_heads has 1 heads, the profile's removal_top_k is 2",
    ),
    "no number of heads": ("numbers", lambda f: set_setting(f, "top_k", 0), "top_k is '0', expected a whole number of"),
    "a threshold above 1": ("numbers", lambda f: set_setting(f, "threshold", 4), "threshold is '4', expected a number"),
    "results are a file": ("disk", lambda f: (f / "results").write_text(""), "results"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_turns_its_line_red(patient, capsys, fault):
    name, break_it, message = FAULTS[fault]
    break_it(patient)
    found = examine(patient, capsys)
    assert [name for name, (mark, _) in found.items() if mark == "FAIL"] == [name]
    assert message in found[name][1]
    for mark, text in found.values():
        assert mark != "skipped" or text == f"for {name} failed"


def test_memory_packages_and_disk(patient, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "free_memory", lambda _: (1e4, "CPU"))
    found = examine(patient, capsys)
    assert found["memory"] == ("FAIL", found["memory"][1]) and "Set DEVICE_MAP=auto, " in found["memory"][1]
    assert found["weights"] == found["heads"] == found["intervention"] == ("skipped", "for memory failed")
    monkeypatch.undo()
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda _: ["torch>=999", "tqdm", "nosuchpackage>=1"])
    text = examine(patient, capsys)["packages"][1]
    assert "torch>=999 is 2" in text and "nosuchpackage>=1 is missing" in text and "tqdm" not in text
    monkeypatch.undo()
    usage = shutil.disk_usage(patient)._replace(free=1000)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    assert examine(patient, capsys)["disk"][0] == "FAIL"


def test_own_heads_are_read(patient, capsys):
    write_heads(patient, [[1, 2], [0, 3], [2, 0]], settings={"model": identify_checkpoint(patient / "model")})
    assert "the first L1H2, L0H3, L2H0" in examine(patient, capsys)["heads"][1]


def test_heads_that_attend_to_the_image_alone_are_named(sound, tmp_path, capsys):
    """AD-HH refuses them; the list of newer_models/decoding.sh may hold them, for removal takes every head."""
    save_tiny_family("mllama", tmp_path / "model")
    shutil.copytree(sound / "coco", tmp_path / "coco")
    write_profile(tmp_path)
    own = write_heads(tmp_path, [[0, 1], [1, 3]])
    content = json.loads(own.read_text())
    own.write_text(json.dumps(content | {"non_hal_heads": [[2, 0], [1, 0]]}))
    assert "attend to the image alone, nothing comes after it there: L1H3" in examine(tmp_path, capsys)["heads"][1]
    published = tmp_path / "published.json"
    own.rename(published)
    set_setting(tmp_path, "published_heads", published)
    mark, text = examine(tmp_path, capsys)["heads"]
    assert (
        mark == "ok"
        and text == f"none yet; bash_scripts/attribute.sh finds them; 2 in {published}, the first L0H1, L1H3"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes(family, sound, tmp_path, capsys):
    save_tiny_family(family, tmp_path / "model")
    shutil.copytree(sound / "coco", tmp_path / "coco")
    write_profile(tmp_path)
    found = examine(tmp_path, capsys)
    assert {mark for mark, _ in found.values()} == {"ok"}, found
    n_layers = 2 if family == "mllama" else 4  # one of its three attends to the image alone
    assert found["intervention"][1].startswith(f"AD-HH on a head of {n_layers} layers changes")


def test_mini_passes(mini_path, capsys):
    with contextlib.suppress(SystemExit):
        main(["--profile", "mini"])
    lines = capsys.readouterr().out.splitlines()
    failed = {line.split()[0] for line in lines if " FAIL " in line}
    drawn = (ROOT / "dataset" / "mini").is_dir()
    assert failed == (set() if drawn else {"annotations"})
    assert any(line.startswith("weights       ok       all keys mapped, 30 layers of 9 heads") for line in lines)


def test_an_unknown_profile_is_one_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--profile", "llava-2"])
    assert stopped.value.code == 2
    assert "PROFILE=llava-2: no such profile; choose one of: " in capsys.readouterr().err
