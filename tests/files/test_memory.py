"""Where memory runs out a block is done in smaller parts: the same answers, and its file says so."""

import importlib
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from llava_hh.attribution import run as attribution
from llava_hh.command_line.script import errors_in_one_line
from llava_hh.decoding import generation
from llava_hh.files import memory
from llava_hh.files.memory import fit_in_memory, is_out_of_memory
from llava_hh.models import lvlm
from llava_hh.scripts import attribute, caption
from tests.faults.kills import run_script

CPU_ERROR = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried 9"


@pytest.fixture
def few_rows(monkeypatch):
    """A function that lets every model loaded from now on run out of memory above so many rows; counts the errors."""

    def limit(n_rows: int, error: type[Exception] = torch.OutOfMemoryError) -> list[int]:
        refused = []

        def load(*given, load=lvlm.load_lvlm):
            loaded = load(*given)

            def check(module, args, kwargs):
                hidden = args[0] if args else kwargs["hidden_states"]
                if len(hidden) > n_rows:
                    refused.append(len(hidden))
                    raise error(CPU_ERROR)

            loaded.decoder_layers[1].register_forward_pre_hook(check, with_kwargs=True)
            return loaded

        monkeypatch.setattr("llava_hh.experiments.captioning.load_lvlm", load)
        monkeypatch.setattr("llava_hh.attribution.captions.load_lvlm", load)
        memory._tell_once.cache_clear()
        return refused

    return limit


def caption_flags(checkpoint: Path, coco: Path, out: Path, batch_size: int) -> list[str]:
    flags = ["--model", checkpoint, "--image-folder", coco / "val2014", "--annotations", coco / "annotations"]
    flags += ["--split", "val2014", "--out", out, "--max-new-tokens", 6, "--batch-size", batch_size, "--limit", 7]
    return [str(flag) for flag in flags]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_captions_are_those_of_smaller_batches(error, few_rows, tiny_checkpoint, tiny_coco, tmp_path, capsys):
    caption.main(caption_flags(tiny_checkpoint, tiny_coco, tmp_path / "two", 2))
    refused = few_rows(2, error)
    caption.main(caption_flags(tiny_checkpoint, tiny_coco, tmp_path / "five", 5))
    assert refused == [5]  # the second block has two images
    assert (tmp_path / "five" / "captions.jsonl").read_bytes() == (tmp_path / "two" / "captions.jsonl").read_bytes()
    blocks = [json.loads(path.read_text()) for path in sorted((tmp_path / "five" / "blocks").glob("*.json"))]
    assert [block.get("sub_batch") for block in blocks] == [2, None]
    assert capsys.readouterr().out.count("out of memory: what does not fit is done in smaller parts") == 1


def test_one_row_that_does_not_fit_is_an_error_with_advice(few_rows, tiny_checkpoint, tiny_coco, tmp_path, capsys):
    refused = few_rows(0)
    with pytest.raises(SystemExit) as stopped:
        caption.main(caption_flags(tiny_checkpoint, tiny_coco, tmp_path, 5))
    assert stopped.value.code == 2
    assert refused == [5, 2, 1]
    line = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(line) == 1
    for part in ("out of memory with 1 at once", "DefaultCPUAllocator", "--batch-size", "--max-rows", "DTYPE"):
        assert part in line[0]


def test_attribution_takes_fewer_rows(few_rows, tiny_checkpoint, tiny_results, tiny_coco, tmp_path):
    flags = ["--model", tiny_checkpoint, "--captions", tiny_results / "train2014" / "captions_eval_results.json"]
    flags += ["--image-folder", tiny_coco / "train2014", "--limit", 6, "--list-length", 3]

    def run(name: str) -> dict[str, np.ndarray]:
        attribute.main([str(flag) for flag in [*flags, "--out", tmp_path / name]])
        return load_file(tmp_path / name / "ablations.safetensors")

    expected = run("all")
    refused = few_rows(9)
    found = run("few")
    assert refused
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=1e-4)
    blocks = [json.loads(path.read_text()) for path in (tmp_path / "few" / "blocks").glob("*.json")]
    assert [block["sub_batch"] <= 9 for block in blocks] == [True]
    few_rows(5)  # a layer's copies are 4 heads, attention, MLP
    with pytest.raises(SystemExit):
        run("none")


def test_other_errors_are_not_taken_for_want_of_memory():
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))

    def work(size: int) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        fit_in_memory(work, 8)


def sub_batches(out: Path) -> list[int | None]:
    return [json.loads(path.read_text()).get("sub_batch") for path in sorted(out.rglob("blocks/*.json"))]


@pytest.mark.parametrize(
    ("name", "module", "most"),
    [
        ("attention_bias", "attention_bias", 3),
        ("attention_inheritance", "attention_inheritance", 8),
        ("js_divergence", "js_divergence", 8),
        ("record_words", "attention_bias", 1),
    ],
)
def test_figures_record_fewer_maps_at_once(name, module, most, material, tmp_path, monkeypatch):
    expected = run_script(material[name], tmp_path / "all")
    own, refused = importlib.import_module(f"llava_hh.experiments.measures.{module}"), []

    def few_maps(*given, record=own.record, maps, **named):
        if len(maps) > most:
            refused.append(len(maps))
            raise torch.OutOfMemoryError(CPU_ERROR)
        return record(*given, maps=maps, **named)

    monkeypatch.setattr(own, "record", few_maps)
    assert equal(run_script(material[name], tmp_path / "few"), expected)
    assert refused
    monkeypatch.setattr(own, "record", lambda *given, **named: few_maps(*given, maps=range(99)))
    with pytest.raises(SystemExit) as stopped:
        run_script(material[name], tmp_path / "none")
    assert stopped.value.code == 2


def test_reference_loss_takes_fewer_captions(material, few_rows, tmp_path):
    expected = run_script(material["reference_loss"], tmp_path / "all")
    refused = few_rows(1)
    assert equal(run_script(material["reference_loss"], tmp_path / "few"), expected)
    assert refused and set(sub_batches(tmp_path / "few")) == {1}


def test_estimates_take_fewer_targets(material, tmp_path, monkeypatch):
    expected = run_script(material["attribute --screen"], tmp_path / "all")
    estimate, refused = attribution.estimate_every_head, []

    def of_few(model, inputs, positions, ids):
        if len(positions) > 1:
            refused.append(len(positions))
            raise torch.OutOfMemoryError(CPU_ERROR)
        return estimate(model, inputs, positions, ids)

    monkeypatch.setattr(attribution, "estimate_every_head", of_few)
    assert equal(run_script(material["attribute --screen"], tmp_path / "few"), expected)
    assert refused and 1 in sub_batches(tmp_path / "few")


def equal(found: object, expected: object) -> bool:
    """Whether two results are the same but for rounding."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(equal(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(equal, found, expected))
    return found == pytest.approx(expected, abs=1e-5) if isinstance(expected, float) else found == expected


def test_images_are_read_inside_what_is_halved(tiny_checkpoint, tiny_coco, tmp_path, monkeypatch):
    """As where five pictures of a block have no room at once, and two have."""
    caption.main(caption_flags(tiny_checkpoint, tiny_coco, tmp_path / "two", 2))
    alive: list[weakref.ref] = []

    def load(path, load_image=generation.load_image):
        image = load_image(path)
        if sum(each() is not None for each in alive) >= 2:
            raise MemoryError(f"{path}: too little memory to read this image")
        alive.append(weakref.ref(image))
        return image

    monkeypatch.setattr(generation, "load_image", load)
    caption.main(caption_flags(tiny_checkpoint, tiny_coco, tmp_path / "five", 5))
    assert (tmp_path / "five" / "captions.jsonl").read_bytes() == (tmp_path / "two" / "captions.jsonl").read_bytes()
    assert sub_batches(tmp_path / "five") == [2, None]


def test_memory_that_runs_out_elsewhere_is_one_line(capsys):
    for error in (torch.OutOfMemoryError("CUDA out of memory. Tried"), RuntimeError(CPU_ERROR)):
        with pytest.raises(SystemExit) as stopped, errors_in_one_line(False):
            raise error
        assert stopped.value.code == 2
        line = capsys.readouterr().err
        assert line.startswith("error: out of memory (") and "--batch-size" in line and line.count("\n") == 1
