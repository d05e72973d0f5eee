"""Figure 5: the divergence by hand and by scipy, the measure against eager attention and loops, the whole script."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from scipy.spatial.distance import jensenshannon
from transformers import LlavaForConditionalGeneration, PreTrainedConfig

from llava_hh.experiments import js_divergence as divergence
from llava_hh.experiments.measures import js_divergence as measure
from llava_hh.figures.js_divergence import draw_js_divergence
from llava_hh.figures.paper import JS_DIVERGENCE
from llava_hh.models import lvlm
from llava_hh.models.lvlm import load_lvlm
from llava_hh.scripts import figure

ROUNDINGS = 8  # of a term of the divergence, which is at most ln 2: three logarithms, products, sums
CAPTIONS = ("a dog and the cat .", "the dog .", "a dog and a dog and the cat and a cat .")


@pytest.fixture(scope="module")
def checkpoints(tiny_checkpoint, tmp_path_factory) -> Callable[[int], Path]:
    """Folders of the tiny model, whose language model moves further from its start with every step."""
    folder = tmp_path_factory.mktemp("tuning")
    for step in (5, 20):
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration.from_pretrained(tiny_checkpoint)
        with torch.no_grad():
            for weight in model.model.language_model.layers.parameters():
                weight += 0.01 * step * torch.randn_like(weight)
        shutil.copytree(tiny_checkpoint, folder / f"step-{step:02d}")
        model.save_pretrained(folder / f"step-{step:02d}")
    return lambda step: folder / f"step-{step:02d}"


@pytest.fixture(scope="module")
def flags(tiny_checkpoint, tiny_coco, checkpoints, tmp_path_factory) -> list[str]:
    """Everything but --out: four captions, three of them hallucinating, two heads a list."""
    folder = tmp_path_factory.mktemp("input")
    tokenizer = load_lvlm(tiny_checkpoint).tokenizer
    images = sorted((tiny_coco / "train2014").iterdir())
    sentences = [
        {
            "image_id": place,
            "image": images[place].name,
            "prompt": "describe",
            "token_ids": tokenizer(caption, add_special_tokens=False).input_ids,
            "caption": caption,
            "mentions": [],
            "metrics": {"CHAIRs": int(place != 1)},
        }
        for place, caption in enumerate((CAPTIONS[0], "a .", *CAPTIONS[1:]))
    ]
    (folder / "captions.json").write_text(json.dumps({"sentences": sentences}))
    lists = {"hal_heads": [[1, 2], [3, 0]], "non_hal_heads": [[0, 1], [2, 3]]}
    (folder / "heads.json").write_text(json.dumps(lists))
    chosen = ["--reference", tiny_checkpoint, "--checkpoints", checkpoints(20), checkpoints(5), "--top-k", 2]
    chosen += ["--heads", folder / "heads.json", "--captions", folder / "captions.json"]
    return [str(flag) for flag in (*chosen, "--image-folder", tiny_coco / "train2014")]


@pytest.fixture(scope="module")
def finished(flags, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    figure.main(["divergence", *flags, "--out", str(out), "--paper-values"])
    return out


def test_divergence_by_hand_and_by_scipy():
    halves = torch.tensor([[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [1.0, 0, 0, 0]])
    others = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], [0.5, 0.5, 0, 0]])
    found = measure.js_divergence(halves, others)
    assert found[0] == 0
    assert found[1].item() == pytest.approx(math.log(2), abs=1e-15)
    # entropy of (3/4, 1/4), less half the entropy of (1/2, 1/2)
    assert found[2].item() == pytest.approx(1.5 * math.log(2) - 0.75 * math.log(3), abs=1e-15)
    p, q = torch.rand(2, 5, 7, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(-1)
    bound = 11 * ROUNDINGS * np.finfo(np.float64).eps  # eleven terms
    assert np.allclose(measure.js_divergence(p, q), jensenshannon(p, q, axis=-1) ** 2, rtol=0, atol=bound)
    assert measure.js_divergence(p, p).abs().max() == 0


def naive_divergence(p: list[float], q: list[float]) -> float:
    total = 0.0
    for one, other in zip(p, q, strict=True):
        middle = (one + other) / 2
        total += sum(x * math.log(x / middle) for x in (one, other) if x > 0) / 2
    return total


def rounding_of_divergence(text: PreTrainedConfig, p: list[float], q: list[float]) -> float:
    """How far apart fp32 rounding can put the divergence of two attention rows in two orders of summation.

    An error d of its score changes a probability p by the factor 1 + d, and the divergence by p |ln(p / m)| d / 2, m
    the mean of both rows. d is the size of the scores (their range in the row), times the root of the number of terms
    that were summed up to them, layer by layer (rounding errors are independent, of mean 0), times the unit roundoff.
    Either computation has such errors, and so twice that is allowed.
    """
    terms = text.num_hidden_layers * (text.hidden_size + text.intermediate_size + len(p)) + text.head_dim
    total = 0.0
    for own, other in ((p, q), (q, p)):
        seen = [x for x in own if x > 0]
        moved = sum(x * abs(math.log(2 * x / (x + y))) for x, y in zip(own, other, strict=True) if x > 0)
        total += moved / 2 * (1 + math.log(max(seen) / min(seen)))
    return 2 * total * math.sqrt(terms) * torch.finfo(torch.float32).eps / 2


def test_measure_equals_eager_attention_and_loops(flags, finished, tiny_checkpoint, checkpoints, tiny_coco):
    lvlm = load_lvlm(tiny_checkpoint)
    sentences = json.loads(Path(flags[flags.index("--captions") + 1]).read_text())["sentences"]
    for step in (5, 20):
        found = np.concatenate([load_file(path)["divergence"] for path in blocks_of(finished, step)])
        for place, entry in enumerate(sentences):
            image = Image.open(tiny_coco / "train2014" / entry["image"]).convert("RGB")
            batch = lvlm.encode([image], [entry["prompt"]], [entry["token_ids"]])
            maps = []
            for folder in (tiny_checkpoint, checkpoints(step)):
                model = LlavaForConditionalGeneration.from_pretrained(folder, attn_implementation="eager")
                with torch.no_grad():
                    maps.append(model(**batch.inputs, output_attentions=True).attentions)
            for layer, (first, second) in enumerate(zip(*maps, strict=True)):
                for head in range(lvlm.n_heads):
                    sides = first[0, head].tolist(), second[0, head].tolist()
                    rows = list(zip(*sides, strict=True))
                    mean = sum(naive_divergence(*both) for both in rows) / len(rows)
                    text = lvlm.model.config.text_config
                    allowed = sum(rounding_of_divergence(text, *both) for both in rows) / len(rows)
                    assert allowed < mean / 1000, "rounding hides what is measured"
                    assert found[place, layer, head] == pytest.approx(mean, abs=allowed), (step, place, layer, head)


def blocks_of(out: Path, step: int) -> list[Path]:
    return sorted((out / f"step-{step}" / "blocks").glob("*.safetensors"))


def test_padded_rows_are_left_out():
    maps = torch.rand(2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(1)).softmax(-1)
    real = torch.tensor([False, False, True, True])
    first, second = ({0: side} for side in maps)
    found = measure.mean_divergence(first, second, real)
    expected = measure.js_divergence(maps[0][0, :, 2:], maps[1][0, :, 2:]).mean(-1)
    bound = 4 * ROUNDINGS * np.finfo(np.float64).eps  # four keys; a vectorised logarithm may differ in its last bit
    torch.testing.assert_close(found, expected[None], rtol=0, atol=bound)
    assert not first
    assert not second


def test_summary_and_figure(finished):
    result = json.loads((finished / "js_divergence.json").read_text())
    assert [entry["step"] for entry in result["steps"]] == [5, 20]
    assert result["n"] == 4
    assert result["paper"] == JS_DIVERGENCE
    for entry in result["steps"]:
        values = np.concatenate([load_file(path)["divergence"] for path in blocks_of(finished, entry["step"])])
        assert values.shape == (4, 4, 4)
        assert np.allclose(entry["all_heads"], values.mean(0))
        groups = {
            name: np.mean([values[:, *head] for head in result[name]], 0) for name in ("hal_heads", "non_hal_heads")
        }
        for name, own in groups.items():
            low, high = entry[name]["interval"]["mean"]
            assert entry[name]["mean"] == pytest.approx(own.mean())
            assert own.min() <= low <= entry[name]["mean"] <= high <= own.max()
        gap = groups["hal_heads"].mean() - groups["non_hal_heads"].mean()
        assert entry["difference"]["mean"] == pytest.approx(gap)
        assert entry["percentiles"]["50"] == pytest.approx(np.median(values.mean(0)))
        assert 0 < entry["percentiles"]["10"] < entry["percentiles"]["90"] < math.log(2)
    first, last = (np.array(entry["all_heads"]) for entry in result["steps"])
    assert (first < last).mean() > 0.9
    before = (finished / "js_divergence.png").read_bytes()
    draw_js_divergence(finished / "js_divergence.json", finished / "js_divergence")
    assert (finished / "js_divergence.png").read_bytes() == before
    assert (finished / "js_divergence.pdf").stat().st_size > 1000


def test_a_result_without_the_control_is_shown(finished, tmp_path):
    """Results of earlier versions have none."""
    result = json.loads((finished / "js_divergence.json").read_text())
    _, first, _ = divergence.Divergence().lines(result)
    assert "; other heads of the same layers 0." in first
    assert "; hallucination heads (2) minus these " in first
    del result["same_layers"]
    for entry in result["steps"]:
        del entry["same_layers"], entry["difference_same_layers"]
    _, first, _ = divergence.Divergence().lines(result)
    assert "same layers" not in first and "minus" not in first
    (tmp_path / "old.json").write_text(json.dumps(result))
    draw_js_divergence(tmp_path / "old.json", tmp_path / "old")
    assert (tmp_path / "old.png").read_bytes() != (finished / "js_divergence.png").read_bytes()


def test_one_caption_has_no_interval(flags, tmp_path):
    figure.main(["divergence", *flags, "--out", str(tmp_path), "--limit", "1"])
    result = json.loads((tmp_path / "js_divergence.json").read_text())
    assert result["n"] == 1
    assert "paper" not in result
    own = result["steps"][0]["hal_heads"]
    assert own["interval"]["mean"] == pytest.approx([own["mean"]] * 2)


def test_the_reference_itself_is_at_zero(flags, tiny_checkpoint, tmp_path):
    shutil.copytree(tiny_checkpoint, tmp_path / "step-0")
    chosen = ["--checkpoints", str(tmp_path / "step-0"), "--out", str(tmp_path / "out")]
    figure.main(["divergence", *flags, *chosen])
    result = json.loads((tmp_path / "out" / "js_divergence.json").read_text())
    assert np.abs(result["steps"][0]["all_heads"]).max() == 0


def test_a_rerun_does_only_what_is_missing(flags, finished, checkpoints, tmp_path, monkeypatch):
    """A killed run keeps its finished checkpoints and blocks; only what is left over is loaded and measured."""
    monkeypatch.setattr(divergence, "BLOCK", 2)
    out = ["--out", str(tmp_path), "--paper-values"]
    figure.main(["divergence", *flags, "--checkpoints", str(checkpoints(5)), *out])
    plain, loaded, calls = lvlm.load_lvlm, [], []

    def load(path: Path):
        loaded.append(path)
        return plain(path)

    def dies_in_the_second_block(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return mean_divergence(*args)

    mean_divergence = measure.mean_divergence
    monkeypatch.setattr(lvlm, "load_lvlm", load)
    with monkeypatch.context() as patch:
        patch.setattr(measure, "mean_divergence", dies_in_the_second_block)
        with pytest.raises(KeyboardInterrupt):
            figure.main(["divergence", *flags, *out])
    assert loaded == [checkpoints(20)]
    figure.main(["divergence", *flags, *out])
    assert loaded == [checkpoints(20)] * 2
    figure.main(["divergence", *flags, *out])
    assert loaded == [checkpoints(20)] * 2
    whole, resumed = (json.loads((folder / "js_divergence.json").read_text()) for folder in (finished, tmp_path))
    assert whole["steps"] == resumed["steps"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: ["--checkpoints", folder / "missing-7"], "missing-7: no config.json there"),
        (lambda folder: ["--reference", folder / "missing"], "missing: no config.json there"),
        (lambda folder: ["--checkpoints", folder / "step-05" / "best"], "must end in its step"),
        (lambda folder: ["--checkpoints", folder / "step-05", folder / "again-5"], "is of step 5, as"),
        (lambda folder: ["--checkpoints", folder / "step-05", folder / "narrow-9"], "narrow-9: heads 2; that of"),
        (lambda _: ["--limit", 0], "argument --limit: '0': expected a whole number of at least 1"),
        (lambda _: ["--top-k", 9], "'hal_heads' has 2 heads, 9 were asked for"),
    ],
)
def test_wrong_input_is_one_line_before_any_work(change, message, flags, checkpoints, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("llava_hh.attribution.captions.load_lvlm", lambda _: pytest.fail("a model was loaded"))
    folder = checkpoints(5).parent
    if not (folder / "narrow-9").exists():
        (folder / "narrow-9").mkdir()
        config = json.loads((folder / "step-05" / "config.json").read_text())
        config["text_config"]["num_attention_heads"] = 2
        (folder / "narrow-9" / "config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit) as stopped:
        figure.main(["divergence", *flags, "--out", str(tmp_path / "out"), *map(str, change(folder))])
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "out").exists()


def test_another_reference_is_refused(flags, finished, checkpoints, capsys):
    """Checkpoints of one tuning have files of one size, and differ by content."""
    with pytest.raises(SystemExit):
        figure.main(["divergence", *flags, "--reference", str(checkpoints(5)), "--out", str(finished)])
    assert (
        "begun with other settings: model was tiny, is step-05: config.json, model.safetensors changed"
        in capsys.readouterr().err
    )
