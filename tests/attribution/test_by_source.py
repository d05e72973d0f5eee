"""attribute --by-source on a tiny checkpoint: its arrays are those of the library, its scores by plain means."""

import json
from pathlib import Path

import numpy as np
import pytest

import llava_hh as hh
from llava_hh.attribution.ablation import ablate_every_head
from llava_hh.scripts import attribute, caption
from tests.support.main_job import attribute_flags, caption_flags, read_attribution
from tests.support.verbs import score_chair

SOURCES = ["image", "after", "answer", "elsewhere"]
READINGS = ["image", "after", "answer", "before+self"]
# scores of random weights are large: what a product's rounding changes there moves a share by some 1e-5
CLOSE = {"without": {"atol": 1e-5, "rtol": 1e-5}, "share": {"atol": 1e-4}}


@pytest.fixture(scope="module")
def flags(tiny_checkpoint, tiny_coco, tmp_path_factory) -> list[str]:
    """Those of an attribution but --out."""
    folder = tmp_path_factory.mktemp("captions")
    caption.main(caption_flags(tiny_checkpoint, tiny_coco, folder))
    score_chair(["--captions", str(folder / "captions.jsonl"), "--annotations", str(tiny_coco / "annotations")])
    given = attribute_flags(tiny_checkpoint, tiny_coco, folder / "captions_eval_results.json", folder)
    at = given.index("--out")
    return given[:at] + given[at + 2 :]


@pytest.fixture(scope="module")
def measured(flags, tmp_path_factory):
    out = tmp_path_factory.mktemp("by_source")
    attribute.main([*flags, "--by-source", "--out", str(out)])
    return out


def recomputed(flags, folder, max_rows=4096, renormalise=False):
    """By source the log-probabilities and shares of all targets, caption by caption, by the library."""
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    lvlm = hh.load(given["--model"])
    rows = [json.loads(line) for line in (folder / "targets.jsonl").read_text().splitlines()]
    entries = {entry["image_id"]: entry for entry in json.loads(Path(given["--captions"]).read_text())["sentences"]}
    parts = {"without": [], "share": []}
    for image_id in dict.fromkeys(row["image_id"] for row in rows):
        entry, own = entries[image_id], [row for row in rows if row["image_id"] == image_id]
        batch = lvlm.encode([f"{given['--image-folder']}/{entry['image']}"], [entry["prompt"]], [entry["token_ids"]])
        start = batch.response_start[0]
        positions, ids = [start + row["index"] - 1 for row in own], [row["token_id"] for row in own]
        how = {"sources": READINGS, "image_mask": batch.image_mask[0], "answer_start": start}
        found = ablate_every_head(lvlm.model, batch.inputs, positions, ids, max_rows, renormalise=renormalise, **how)
        for name in parts:
            parts[name].append(getattr(found, name).numpy())
    return {name: np.concatenate(values, axis=1) for name, values in parts.items()}


def check_scores(result, hallucinated, log_probs):
    clean = np.exp(log_probs["clean"])[:, None, None]
    by_source = {}
    for source in SOURCES:
        drop = clean - np.exp(log_probs[f"without_{source}"])
        kept = result["sources"]["by_source"][source]
        for name, kind in (("hallucinated", hallucinated), ("true", ~hallucinated)):
            share = log_probs[f"share_{source}"][kind].mean(0)
            np.testing.assert_allclose(kept[f"influence_{name}"], drop[kind].mean(0), atol=1e-6)
            np.testing.assert_allclose(kept[f"attention_{name}"], share, atol=1e-6)
        assert kept["emptied"] == (log_probs[f"share_{source}"] > 1 - 1e-6).sum()
        by_source[source] = drop[hallucinated].mean(0) - drop[~hallucinated].mean(0)
        np.testing.assert_allclose(kept["contrastive_influence"], by_source[source], atol=1e-6)
        low, high = np.array(kept["interval"]["contrastive_influence"])
        assert ((low <= by_source[source] + 1e-6) & (by_source[source] <= high + 1e-6)).mean() > 0.9
        order = np.argsort(-by_source[source], axis=None)[:5]
        assert kept["hal_heads"] == [[*divmod(int(place), 4)] for place in order]
    if result["settings"]["renormalise"]:
        assert "gap" not in result["sources"]
    else:
        gap = np.array(result["contrastive_influence"]) - sum(by_source.values())
        np.testing.assert_allclose(result["sources"]["gap"], gap, atol=1e-6)
    order = np.argsort(-(by_source["after"] + by_source["answer"]), axis=None)[:5]
    assert result["sources"]["text_heads"] == [[*divmod(int(place), 4)] for place in order]


def test_arrays_and_scores(flags, measured, tmp_path, capsys):
    result, hallucinated, log_probs = read_attribution(measured)
    expected = recomputed(flags, measured)
    for name, values in expected.items():
        for source, of_source in zip(SOURCES, values, strict=True):
            np.testing.assert_allclose(log_probs[f"{name}_{source}"], of_source, **CLOSE[name])
    check_scores(result, hallucinated, log_probs)
    assert result["settings"]["sources"] == SOURCES and result["settings"]["renormalise"] is False
    assert (measured / "source_maps.png").stat().st_size > 10_000
    attribute.main([*flags, "--by-source", "--out", str(measured)])  # finished: shown again
    layer, head = result["hal_heads"][0]
    score = result["sources"]["by_source"]["answer"]["contrastive_influence"][layer][head]
    assert f"    by reading answer: {score:+.4f} (" in capsys.readouterr().out
    attribute.main([*flags, "--out", str(tmp_path)])
    plain, _, of_heads = read_attribution(tmp_path)
    assert "sources" not in plain and "sources" not in plain["settings"]
    np.testing.assert_allclose(of_heads["heads"], log_probs["heads"], atol=1e-5)
    assert plain["hal_heads"] == result["hal_heads"]


def test_resumed_and_renormalised(flags, measured, tmp_path, capsys):
    asked = [*flags, "--by-source", "--renormalise", "--max-rows", "24", "--out", str(tmp_path)]
    attribute.main(asked)
    result, hallucinated, log_probs = read_attribution(tmp_path)
    for name, values in recomputed(flags, tmp_path, 24, renormalise=True).items():
        for source, of_source in zip(SOURCES, values, strict=True):
            np.testing.assert_allclose(log_probs[f"{name}_{source}"], of_source, **CLOSE[name])
    check_scores(result, hallucinated, log_probs)
    before = (tmp_path / "ablations.safetensors").read_bytes()
    sorted(tmp_path.glob("blocks/*.json"))[-1].unlink()
    attribute.main(asked)
    assert (tmp_path / "ablations.safetensors").read_bytes() == before
    with pytest.raises(SystemExit):
        attribute.main([*flags, "--by-source", "--out", str(tmp_path)])
    assert "renormalise was true, is false" in capsys.readouterr().err.lower()
    with pytest.raises(SystemExit):
        attribute.main([*flags, "--renormalise", "--out", str(tmp_path / "new")])
    assert "--renormalise: needs --by-source" in capsys.readouterr().err


def test_a_shortlist_by_source(flags, measured, tmp_path):
    attribute.main([*flags, "--by-source", "--screen", "6", "--out", str(tmp_path)])
    result, _, log_probs = read_attribution(tmp_path)
    whole = read_attribution(measured)[2]
    chosen = ~np.isnan(log_probs["heads"]).any(0)
    assert chosen.sum() == 6
    for source in SOURCES:
        for name in (f"without_{source}", f"share_{source}"):
            assert np.array_equal(~np.isnan(log_probs[name]).any(0), chosen), name
            np.testing.assert_allclose(log_probs[name][:, chosen], whole[name][:, chosen], atol=1e-5)
        scores = np.array(result["sources"]["by_source"][source]["contrastive_influence"], dtype=float)
        assert np.array_equal(np.isnan(scores), ~chosen)
    assert len(result["sources"]["text_heads"]) == 5
