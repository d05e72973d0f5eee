"""Wrong input of every kind: one line that says what is wrong, exit status 2, and nothing that was written is lost."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava_hh.runs.identity import identify_checkpoint
from llava_hh.scripts import attribute, caption, evaluate
from tests.support.repository import ROOT
from tests.support.verbs import score_chair


@pytest.fixture
def refused(capsys) -> Callable[..., str]:
    """Run a script's main; it must say `parts` in one line and exit with 2."""

    def run(main: Callable, flags: list, *parts: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(flag) for flag in flags])
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
        assert stopped.value.code == 2
        assert len(lines) == 1
        for part in parts:
            assert part in lines[0]
        return lines[0]

    return run


@pytest.fixture
def coco(tiny_coco, tmp_path) -> Path:
    """A copy of the data set, to be damaged."""
    return Path(shutil.copytree(tiny_coco, tmp_path / "coco"))


def caption_flags(checkpoint: Path, coco: Path, out: Path, *more: object) -> list:
    flags = ["--model", checkpoint, "--image-folder", coco / "train2014", "--annotations", coco / "annotations"]
    flags += ["--split", "train2014", "--out", out, "--limit", 8, "--max-new-tokens", 6, "--batch-size", 2]
    return [*flags, *more]


@pytest.fixture(scope="module")
def captions(tiny_checkpoint, tiny_coco, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("captions")
    caption.main([str(flag) for flag in caption_flags(tiny_checkpoint, tiny_coco, out)])
    score_chair(["--captions", str(out / "captions.jsonl"), "--annotations", str(tiny_coco / "annotations")])
    return out


def damage_missing(path: Path) -> str:
    path.unlink()
    return "no such image; is --image-folder the right one?"


def damage_truncated(path: Path) -> str:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return "a damaged image"


def damage_zero_bytes(path: Path) -> str:
    path.write_bytes(b"")
    return "an empty file"


def damage_text(path: Path) -> str:
    path.write_text("no image")
    return "not an image (JPEG, PNG"


def damage_cmyk(path: Path) -> str:
    Image.open(path).convert("CMYK").save(path)
    return "an image of mode CMYK; expected 8-bit RGB or grey"


def damage_sixteen_bits(path: Path) -> str:
    Image.fromarray(np.full((8, 8), 40000, dtype=np.uint16)).save(path, format="PNG")
    return "an image of mode I;16; expected 8-bit RGB or grey"


DAMAGES = [damage_missing, damage_truncated, damage_zero_bytes, damage_text, damage_cmyk, damage_sixteen_bits]


@pytest.mark.parametrize("damage", DAMAGES)
def test_bad_image(damage, tiny_checkpoint, coco, captions, tmp_path, refused):
    rows = [json.loads(line) for line in (captions / "captions.jsonl").read_text().splitlines()]
    bad = coco / "train2014" / rows[5]["image"]
    whole = bad.read_bytes()
    flags = caption_flags(tiny_checkpoint, coco, tmp_path / "out")
    message = damage(bad)
    refused(caption.main, flags, str(bad), message)
    assert len(list((tmp_path / "out" / "blocks").glob("*.json"))) == 2  # the blocks before the bad image
    flags_attribute = ["--model", tiny_checkpoint, "--captions", captions / "captions_eval_results.json"]
    flags_attribute += ["--image-folder", coco / "train2014", "--out", tmp_path / "attribution"]
    refused(attribute.main, flags_attribute, str(bad), message)
    bad.write_bytes(whole)
    caption.main([str(flag) for flag in flags])
    assert (tmp_path / "out" / "captions.jsonl").read_bytes() == (captions / "captions.jsonl").read_bytes()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_other_eight_bit_images_are_read(mode, tiny_checkpoint, coco, captions, tmp_path):
    row = json.loads((captions / "captions.jsonl").read_text().splitlines()[0])
    path = coco / "train2014" / row["image"]
    Image.open(path).convert(mode).save(path, format="PNG")
    caption.main([str(flag) for flag in caption_flags(tiny_checkpoint, coco, tmp_path / "out", "--limit", 1)])


def test_broken_line_of_captions(captions, tiny_coco, tmp_path, refused):
    lines = (captions / "captions.jsonl").read_text().splitlines()
    broken = tmp_path / "captions.jsonl"
    broken.write_text("\n".join([*lines[:3], lines[3][:40], *lines[4:]]))
    flags = ["--captions", broken, "--annotations", tiny_coco / "annotations"]
    refused(score_chair, flags, f"{broken}, row 4: not JSON")


def test_broken_result_file(captions, tiny_checkpoint, tiny_coco, tmp_path, refused):
    broken = tmp_path / "captions_eval_results.json"
    broken.write_text((captions / broken.name).read_text()[:200])
    flags = ["--model", tiny_checkpoint, "--image-folder", tiny_coco / "train2014", "--out", tmp_path / "out"]
    refused(attribute.main, [*flags, "--captions", broken], str(broken), "not JSON")
    for content in ("{}", '{"sentences": [{"caption": "a dog"}]}', '{"sentences": [3]}'):
        broken.write_text(content)
        refused(attribute.main, [*flags, "--captions", broken], str(broken), "captions_eval_results.json of a run")


@pytest.mark.parametrize("kind", ["captions", "instances"])
def test_broken_annotations(kind, captions, tiny_checkpoint, coco, refused, tmp_path):
    path = coco / "annotations" / f"{kind}_train2014.json"
    path.write_text(path.read_text()[:500])
    flags = ["--captions", captions / "captions.jsonl", "--annotations", coco / "annotations", "--out", tmp_path / "x"]
    refused(score_chair, flags, str(path))
    if kind == "captions":
        refused(caption.main, caption_flags(tiny_checkpoint, coco, tmp_path / "out"), str(path))


def write_heads(path: Path, heads: list, model: dict | None = None) -> Path:
    path.write_text(json.dumps({"hal_heads": heads, **({"settings": {"model": model}} if model else {})}))
    return path


@pytest.mark.parametrize("script", [caption, evaluate])
def test_heads_that_do_not_belong_to_the_model(script, tiny_checkpoint, coco, tmp_path, refused):
    flags = caption_flags(tiny_checkpoint, coco, tmp_path / "out")
    flags += ["--method" if script is caption else "--methods", "removal:top_k=2"]
    heads = tmp_path / "heads.json"
    flags += ["--heads", heads]
    write_heads(heads, [[0, 1], [31, 2]])
    refused(script.main, flags, "no head L31H2: the model has 4 layers of 4 heads")
    write_heads(heads, [[0, 1]])
    refused(script.main, flags, f"{heads}: 'hal_heads' has 1 heads, 2 were asked for")
    other = identify_checkpoint(tiny_checkpoint) | {"sha256": "0" * 64}
    write_heads(heads, [[0, 1], [1, 2]], other)
    refused(script.main, flags, f"--heads {heads}: found on another model", "--foreign-heads")
    write_heads(heads, [[0, 1], [1, 2]], {"config_sha256": "0" * 64, "weights": {"model.safetensors": 1}})
    refused(
        script.main, flags, f"--heads {heads}: found by an earlier version", "attribute this model", "--foreign-heads"
    )
    assert not list((tmp_path / "out").rglob("*.jsonl"))  # all of that before any captioning
    if script is caption:
        script.main([str(flag) for flag in [*flags, "--foreign-heads", "--limit", 2]])
        write_heads(heads, [[0, 1], [1, 2]], identify_checkpoint(tiny_checkpoint) | {"name": "elsewhere"})
        script.main([str(flag) for flag in [*flags, "--limit", 2]])


def test_a_method_without_heads(tiny_checkpoint, coco, tmp_path, refused):
    flags = caption_flags(tiny_checkpoint, coco, tmp_path / "out", "--method", "adhh")
    refused(caption.main, flags, "method 'adhh': needs heads=FILE, or --heads")


def test_empty_folders(tiny_checkpoint, tiny_coco, captions, tmp_path, refused):
    empty = tmp_path / "empty"
    empty.mkdir()
    flags = caption_flags(tiny_checkpoint, tiny_coco, tmp_path / "out")
    refused(caption.main, [*flags, "--image-folder", empty], f"{empty}/", "no such image")
    refused(caption.main, [*flags, "--annotations", empty], str(empty), "captions_train2014.json")
    refused(caption.main, [*flags, "--model", empty], f"{empty}: no config.json")
    refused(score_chair, ["--captions", captions / "captions.jsonl", "--annotations", empty], str(empty))


def test_no_hallucinated_word(tiny_checkpoint, tiny_coco, captions, tmp_path, refused):
    content = json.loads((captions / "captions_eval_results.json").read_text())
    for entry in content["sentences"]:
        entry["metrics"]["CHAIRs"] = 0
    path = tmp_path / "captions_eval_results.json"
    path.write_text(json.dumps(content))
    flags = ["--model", tiny_checkpoint, "--captions", path, "--image-folder", tiny_coco / "train2014"]
    refused(attribute.main, [*flags, "--out", tmp_path / "out"], str(path), "no caption with a hallucinated object")


def test_no_true_word(tiny_checkpoint, tiny_coco, captions, tmp_path, refused):
    content = json.loads((captions / "captions_eval_results.json").read_text())
    for entry in content["sentences"]:
        entry["mentions"] = [{**mention, "hallucinated": True} for mention in entry["mentions"]]
        entry["mscoco_gt_words"] = []
    path = tmp_path / "captions_eval_results.json"
    path.write_text(json.dumps(content))
    flags = ["--model", tiny_checkpoint, "--captions", path, "--image-folder", tiny_coco / "train2014"]
    refused(attribute.main, [*flags, "--out", tmp_path / "out", "--limit", 2], "no true word among")


def test_folder_of_other_settings(tiny_checkpoint, tiny_coco, captions, refused):
    before = (captions / "captions.jsonl").read_bytes()
    flags = caption_flags(tiny_checkpoint, tiny_coco, captions, "--prompt", "describe the dog")
    refused(caption.main, flags, f"{captions / 'run.json'}: begun with other settings: prompt was", "another --out")
    assert (captions / "captions.jsonl").read_bytes() == before


@pytest.mark.parametrize("script", [caption, evaluate, attribute])
def test_unwritable_folder(script, tiny_checkpoint, tiny_coco, captions, tmp_path, refused):
    (tmp_path / "file").write_text("")
    flags = caption_flags(tiny_checkpoint, tiny_coco, tmp_path)
    if script is attribute:
        flags = ["--model", tiny_checkpoint, "--captions", captions / "captions_eval_results.json"]
        flags += ["--image-folder", tiny_coco / "train2014"]
    if script is evaluate:
        flags += ["--heads", write_heads(tmp_path / "heads.json", [[0, 1]]), "--methods", "adhh:top_k=1"]
    for folder in (tmp_path / "file" / "out", Path("/proc/results")):
        refused(script.main, [*flags, "--out", folder], f"--out {folder}: cannot be written")


@pytest.mark.parametrize("wrapper", ["attribute.sh", "decoding.sh"])
def test_unknown_profile(wrapper):
    command = ["sh", ROOT / "bash_scripts" / wrapper]
    environment = {**os.environ, "PROFILE": "llava"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    line = done.stderr.strip()
    assert line.startswith("error: PROFILE=llava: no such profile; choose one of: chameleon-30b ")
    assert " llava-v1.6-34b mini " in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("processor_config.json", {"num_additional_image_tokens": 10**8}, "num_additional_image_tokens is 100000000"),
        ("processor_config.json", {"patch_size": "4"}, "patch_size is '4'"),
        ("processor_config.json", {"patch_size": 2}, "its processor's files do not fit its weights"),
        ("generation_config.json", {"eos_token_id": "</s>"}, "eos_token_id is '</s>'; expected token ids"),
        ("config.json", {"image_token_index": 1.5}, "this checkpoint cannot be used; StrictDataclass"),
        ("tokenizer_config.json", {"pad_token": None}, "this checkpoint cannot be used; ValueError: Asking to pad"),
    ],
)
def test_a_checkpoint_that_cannot_be_used(tiny_checkpoint, tiny_coco, tmp_path, refused, file, changes, message):
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_checkpoint, folder)
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | changes))
    refused(caption.main, caption_flags(folder, tiny_coco, tmp_path / "out"), str(folder), message)
