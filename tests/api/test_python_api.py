"""`import llava_hh as hh`: cheap to import, and the same numbers as the scripts."""

import gc
import json
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

import llava_hh as hh
from llava_hh.attention.hooks import intervene as raw_intervene
from llava_hh.attribution.contrast import influence
from llava_hh.files.files import read_json_lines
from llava_hh.models.families import FAMILIES
from tests.support.repository import ROOT

HEADS = [hh.Head(1, 2), hh.Head(2, 0), hh.Head(3, 1)]


def modules_after(*lines: str) -> set[str]:
    code = "\n".join((*lines, "import sys; print(*sys.modules)"))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def lvlm(tiny_checkpoint):
    return hh.load(tiny_checkpoint)


@pytest.fixture(scope="module")
def images(tiny_coco):
    return sorted((tiny_coco / "val2014").glob("*.jpg"))[:5]


# --- importing


def test_the_import_alone_reads_nothing():
    found = modules_after("import llava_hh as hh", "hh.Head, hh.load_heads, hh.chair")
    assert not {"torch", "transformers", "nltk", "scipy"} & found
    assert "llava_hh.heads" in found


@pytest.mark.parametrize(
    "lines",
    [
        ["import llava_hh as hh", "[getattr(hh, name) for name in hh.__all__]"],
        ["import llava_hh.models.lvlm"],
    ],
)
def test_no_family_and_no_model_of_transformers_is_imported_before_a_load(lines):
    found = modules_after(*lines)
    assert not [name for name in found if name.startswith("transformers.models")]
    assert "transformers.modeling_utils" not in found
    places = {FAMILIES.data[name] for name in FAMILIES}
    of_families = {place.split(":")[0] if isinstance(place, str) else place.__module__ for place in places}
    assert len(of_families) >= 9 and not of_families & found


def test_a_load_imports_its_own_family_alone(tiny_checkpoint):
    found = modules_after("import llava_hh as hh", f"hh.load({str(tiny_checkpoint)!r})")
    assert "llava_hh.models.llava" in found
    assert not found & {"llava_hh.models.qwen_vl", "llava_hh.models.mllama", "llava_hh.models.original"}
    assert "transformers.models.qwen3_vl.modeling_qwen3_vl" not in found


def test_names():
    assert {*hh.__all__} <= {*dir(hh)}
    with pytest.raises(AttributeError, match="module 'llava_hh' has no attribute 'nonsense'"):
        _ = hh.nonsense


# --- models


def test_a_family_of_other_people(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(FAMILIES, "data", dict(FAMILIES.data))
    module = tmp_path / "their_family.py"
    module.write_text("from llava_hh.models.llava import Llava\nclass Theirs(Llava):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    hh.register_family("llava", "their_family:Theirs")
    assert "their_family" not in sys.modules and "llava" in FAMILIES
    assert type(hh.load(tiny_checkpoint).family).__name__ == "Theirs"
    for place in ("no_such_module:Theirs", "their_family:Ours"):
        hh.register_family("llava", place)
        with pytest.raises(ValueError, match=f"family '{place}' of 'llava' cannot be imported"):
            hh.load(tiny_checkpoint)
    with pytest.raises(ValueError, match="family 'nonsense' of 'x': expected a class, or 'module:Class'"):
        hh.register_family("x", "nonsense")


def test_loading_in_a_type(tiny_checkpoint, monkeypatch):
    monkeypatch.setenv("DTYPE", "float32")
    assert hh.load(tiny_checkpoint).model.dtype == torch.float32
    for dtype in ("bfloat16", torch.bfloat16):
        loaded = hh.load(str(tiny_checkpoint), dtype=dtype, device_map="cpu")
        assert loaded.model.dtype == torch.bfloat16 and loaded.loading.record()["dtype"] == "bfloat16"
    with pytest.raises(ValueError, match="dtype 'half-ish': expected a dtype of torch"):
        hh.load(tiny_checkpoint, dtype="half-ish")


def test_a_released_model_is_gone(tiny_checkpoint):
    loaded = hh.load(tiny_checkpoint)
    gone = weakref.ref(loaded.model)
    hh.release(loaded)
    gc.collect()
    assert gone() is None


# --- captions


def test_captions_are_those_of_greedy_decoding(lvlm, images, tiny_coco):
    batch = lvlm.encode(images, ["describe"] * len(images))
    ids = lvlm.model.generate(**batch.inputs, max_new_tokens=8, do_sample=False)[:, batch.image_mask.shape[1] :]
    expected = [lvlm.answer_text(row) for row in ids]
    settings = {"prompt": "describe", "max_new_tokens": 8}
    opened = [Image.open(path) for path in images]
    for given in (images, [str(path) for path in images], opened):
        assert lvlm.caption(given, **settings) == expected
    assert hh.caption(lvlm, images, batch_size=2, **settings) == expected
    for one in (images[0], str(images[0]), opened[0]):
        assert lvlm.caption(one, **settings) == expected[:1]
    assert lvlm.caption([], **settings) == []
    edits = [hh.DeactivateText(HEADS, threshold=0.2)]
    with raw_intervene(lvlm.model, batch.image_mask, edits):
        ids = lvlm.model.generate(**batch.inputs, max_new_tokens=8, do_sample=False)[:, batch.image_mask.shape[1] :]
    edited = [lvlm.answer_text(row) for row in ids]
    written = 'adhh:heads="L1H2,L2H0,L3H1",threshold=0.2'
    for method in (edits, tuple(edits), written):
        assert lvlm.caption(images, method=method, **settings) == edited != expected


def test_images_of_any_kind(lvlm, images, tmp_path):
    settings = {"prompt": "describe", "max_new_tokens": 4}
    picture = Image.open(images[0]).convert("RGB")
    expected = lvlm.caption(picture, **settings)
    with_alpha = picture.copy()
    with_alpha.putalpha(100)
    assert lvlm.caption(with_alpha, **settings) == expected
    batch = lvlm.encode([with_alpha, images[0], picture], ["describe"] * 3)
    pixels = batch.inputs["pixel_values"]
    assert torch.equal(pixels[0], pixels[2]) and all(image.mode == "RGB" for image in batch.images)
    path = tmp_path / "broken.jpg"
    path.write_bytes(images[0].read_bytes()[:-500])
    for bad, words in (
        (path, "broken.jpg: a damaged image"),
        (Image.open(path), "broken.jpg: a damaged image"),
        (tmp_path / "none.png", "none.png: no such image"),
        (Image.new("I;16", (20, 20)), "a PIL image of 20 x 20 pixels: an image of mode I;16"),
        (Image.new("RGB", (20, 1)), "an image of 20 x 1 pixels"),
        (None, "image None: expected a path or a PIL image"),
        (7, "image 7: expected a path or a PIL image"),
    ):
        with pytest.raises(ValueError, match=words):
            lvlm.caption([images[0], bad], **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "nonsense"}, "method 'nonsense': no kind of method 'nonsense'"),
        ({"method": "adhh:threshold=0.2"}, "method 'adhh:threshold=0.2': needs heads=FILE"),
        ({"method": "random:draws=2,of=greedy"}, "is several methods; expected one method for this model"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; expected a whole number of at least 1"),
        ({"batch_size": 2.5}, "batch_size is 2.5; expected a whole number of at least 1"),
    ],
)
def test_wrong_settings_of_captions(lvlm, images, settings, words):
    with pytest.raises(ValueError, match=words):
        lvlm.caption(images, **settings)


# --- interventions and recordings


def test_blocks_of_a_batch(lvlm, images):
    batch = lvlm.encode(images[:2], ["describe"] * 2, responses=[[20, 30, 40], [50]])
    edits = [hh.DeactivateText(HEADS, 0.2), hh.ScaleAttention(HEADS[:1], 2.0, "image")]
    with torch.no_grad(), raw_intervene(lvlm.model, batch.image_mask, edits, batch.response_start) as expected:
        logits = lvlm.model(**batch.inputs).logits
    with hh.intervene(lvlm, batch, edits) as trace:
        found = lvlm.model(**batch.inputs).logits
        assert not found.requires_grad
    assert torch.equal(found, logits) and trace.fired == expected.fired
    with hh.intervene(lvlm.model, batch.image_mask, edits, batch.response_start):
        kept = lvlm.model(**batch.inputs).logits
    assert torch.equal(kept, logits) and kept.requires_grad and torch.is_grad_enabled()
    with hh.intervene(lvlm, batch, edits, on_rows=[True, False], gradients=True):
        half = lvlm.model(**batch.inputs).logits
    assert half.requires_grad and torch.equal(half[0], logits[0]) and not torch.equal(half[1], logits[1])
    for model, where in ((lvlm, batch), (lvlm.model, batch.image_mask)):
        with hh.record(model, where, mass=HEADS, maps=HEADS[:1]) as trace:
            lvlm.model(**batch.inputs)
        assert [*trace.mass] == [1, 2, 3] and trace.mass[1][0].requires_grad == (model is not lvlm)
    with hh.record(lvlm, batch, mass=HEADS, gradients=True) as trace:
        lvlm.model(**batch.inputs)
    assert trace.mass[1][0].requires_grad


# --- attribution


def test_attribution_of_a_caption_equals_the_scripts(lvlm, tiny_results, tiny_coco):
    folder = tiny_results / "train2014"
    entries = {e["image_id"]: e for e in json.loads((folder / "captions_eval_results.json").read_text())["sentences"]}
    targets = [row for _, row in read_json_lines(folder / "identify_attention_head" / "targets.jsonl")]
    stored = load_file(folder / "identify_attention_head" / "ablations.safetensors")
    image_ids = np.array([row["image_id"] for row in targets])
    for image_id in dict.fromkeys(image_ids.tolist()):
        entry, own = entries[image_id], image_ids == image_id
        for caption in (entry["token_ids"], entry["caption"]):
            found = hh.attribute(lvlm, tiny_coco / "train2014" / entry["image"], caption, prompt=entry["prompt"])
            clean = stored["clean"][own]
            assert np.array_equal(found.influence, influence(clean, stored["heads"][own]))
            assert np.array_equal(found.attention_influence, influence(clean, stored["mha"][own]))
            assert np.array_equal(found.mlp_influence, influence(clean, stored["mlp"][own]))
            assert np.array_equal(found.probabilities, np.exp(clean))
            named = [(target["word"], target["node"]) for target in targets if target["image_id"] == image_id]
            assert [*zip(found.words, found.objects, strict=True)] == named


def test_a_result_of_attribution(lvlm, images, tmp_path, monkeypatch):
    [caption] = lvlm.caption(images[0], prompt="describe", max_new_tokens=6)
    whole = hh.attribute(lvlm, images[0], caption, prompt="describe")
    first, last = whole.words[0], whole.words[-1]
    some = hh.attribute(lvlm, Image.open(images[0]), caption, words=[last, first.upper()], prompt="describe")
    assert {*some.words} == {first, last}
    np.testing.assert_allclose(some.of(first), whole.of(first), atol=1e-6)
    rows = whole.rows()
    assert len(rows) == len(whole.words) * lvlm.n_layers * lvlm.n_heads
    assert json.loads(json.dumps(rows)) == rows
    assert rows[5]["influence"] == whole.influence[0, 5 // lvlm.n_heads, 5 % lvlm.n_heads]
    (best, value), *_ = whole.top(3)
    assert value == whole.of().max() == whole.of()[best]
    assert len(str(whole).splitlines()) == len(whole.words) and first in str(whole)
    for word in (None, first):
        figure = whole.plot(word)
        ranks = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
        assert ranks["1"] == whole.top(1, word)[0][0][::-1]  # head on the horizontal axis
        figure.savefig(tmp_path / "map.png")
        assert Image.open(tmp_path / "map.png").width > 100
    with pytest.raises(ValueError, match="no influence on 'unicorn' here"):
        whole.of("unicorn")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"needs pandas \(pip install pandas\); rows\(\) does without"):
        whole.to_dataframe()


def test_words_that_are_not_there(lvlm, images):
    with pytest.raises(ValueError, match="no object word of CHAIR in 'the and the'"):
        hh.attribute(lvlm, images[0], "the and the", prompt="describe")
    with pytest.raises(ValueError, match="no word 'do' in the caption 'a dog'"):
        hh.attribute(lvlm, images[0], "a dog", words="do", prompt="describe")
