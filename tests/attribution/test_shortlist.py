"""The estimate against differences of cached passes, the race's tests against loops; both on a random model."""

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import t as student

from llava_hh.attribution.contrast import contrastive_influence, rank_heads
from llava_hh.attribution.estimate import estimate_every_head, estimated_influence
from llava_hh.attribution.shortlist import beaten_heads
from llava_hh.scripts import attribute, caption
from tests.support.ablation_cases import llama_case, llava_case, mllama_case, padded_llava_case
from tests.support.main_job import attribute_flags, caption_flags, read_attribution
from tests.support.slow_ablation import ablate_one_by_one
from tests.support.verbs import score_chair

STEP = 0.02


@pytest.mark.parametrize("case", [llava_case, padded_llava_case, llama_case, mllama_case])
def test_estimate_is_the_slope_in_a_heads_gate(case):
    model, inputs, positions = case()
    targets = [37 + 5 * row for row in range(len(positions))]
    clean, drops = estimate_every_head(model, inputs, positions, targets)
    exact = deepcopy(model).double()
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    up, down = (
        ablate_one_by_one(exact, inputs, positions, targets, replace=lambda z, *_, gate=gate: z * gate)
        for gate in (1 + STEP, 1 - STEP)
    )
    torch.testing.assert_close(clean, up.clean, atol=1e-4, rtol=1e-4)
    slopes = (up.heads - down.heads) / (2 * STEP)
    assert slopes.abs().mean() > 0.01
    torch.testing.assert_close(drops, slopes, atol=1e-3, rtol=1e-2)


def test_estimate_leaves_the_model_alone():
    model, inputs, positions = llava_case()
    before = model(**inputs).logits
    clean, drops = estimate_every_head(model, inputs, positions, [9, 8, 7])
    assert not clean.requires_grad and not drops.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(model(**inputs).logits, before)
    none = estimate_every_head(model, inputs, [], [])
    assert [tensor.shape for tensor in none] == [(0,), (0, 4, 4)]


def test_estimated_influence_by_hand():
    clean, drops = np.log([0.5, 0.1]), np.array([[0.2, -0.4], [1.0, 0.0]])
    assert np.allclose(estimated_influence(clean, drops, "probability"), [[0.1, -0.2], [0.1, 0.0]])
    assert np.allclose(estimated_influence(clean, drops, "absolute"), [[0.1, 0.2], [0.1, 0.0]])
    assert np.array_equal(estimated_influence(clean, drops, "log"), drops)


def words(n_images: int, n_heads: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Influences (target, head) of 1 to 6 words an image, later heads weaker."""
    rng = np.random.default_rng(seed)
    image_ids = np.repeat(np.arange(n_images) * 7, rng.integers(1, 7, n_images))
    hallucinated = rng.random(len(image_ids)) < 0.4
    of_image = rng.normal(size=(n_images, n_heads))[image_ids // 7]
    influences = 0.3 * of_image + rng.normal(size=(len(image_ids), n_heads))
    return influences + hallucinated[:, None] * np.linspace(2, 0, n_heads), hallucinated, image_ids


@pytest.mark.parametrize(("n_images", "k", "confidence"), [(4, 1, 0.9), (12, 3, 0.975), (40, 5, 0.975), (40, 2, 0.6)])
def test_beaten_heads_equal_pairwise_tests(n_images, k, confidence):
    influences, hallucinated, image_ids = words(n_images, 9, seed=n_images)
    images, n_heads = np.unique(image_ids), influences.shape[1]
    beaten_by = np.zeros(n_heads, dtype=int)
    for winner in range(n_heads):
        for loser in range(n_heads):
            gap = influences[:, winner] - influences[:, loser]
            means = [gap[kind].mean() for kind in (hallucinated, ~hallucinated)]
            square = 0.0
            for image in images:
                pull = 0.0
                for sign, kind, mean in zip((1, -1), (hallucinated, ~hallucinated), means, strict=True):
                    pull += sign * (gap[kind & (image_ids == image)] - mean).sum() / kind.sum()
                square += pull**2
            error = np.sqrt(square * len(images) / (len(images) - 1))
            beaten_by[loser] += means[0] - means[1] > student.ppf(confidence, len(images) - 1) * error
    expected = beaten_by >= k
    assert np.array_equal(beaten_heads(influences, hallucinated, image_ids, k, confidence), expected)
    assert n_images == 4 or 0 < expected.sum() <= n_heads - k


def test_the_top_k_so_far_stays():
    for seed in range(5):
        influences, hallucinated, image_ids = words(30, 12, seed)
        best, _ = rank_heads(contrastive_influence(influences, hallucinated)[None], 4)
        assert not beaten_heads(influences, hallucinated, image_ids, 4, 0.51)[[place.head for place in best]].any()


def test_a_head_as_good_as_the_best_is_dropped_as_often_as_a_test_may_fail():
    dropped = 0
    for seed in range(400):
        influences, hallucinated, image_ids = words(20, 2, seed)
        influences[:, 0] -= 2 * hallucinated  # now both are alike
        dropped += beaten_heads(influences, hallucinated, image_ids, 1, 0.95)[0]
    assert 4 <= dropped <= 40  # 20 are expected


def test_too_little_to_tell():
    influences, hallucinated, image_ids = words(10, 6, 0)
    for chosen in (hallucinated, ~hallucinated, image_ids == image_ids[0]):
        assert not beaten_heads(influences[chosen], hallucinated[chosen], image_ids[chosen], 1, 0.51).any()


@pytest.fixture(scope="module")
def sources(tiny_checkpoint, tiny_coco, tmp_path_factory) -> tuple[list[str], Path]:
    """Flags of attribution but --out, and the folder of the exact one."""
    folder = tmp_path_factory.mktemp("captions")
    caption.main(caption_flags(tiny_checkpoint, tiny_coco, folder))
    score_chair(["--captions", str(folder / "captions.jsonl"), "--annotations", str(tiny_coco / "annotations")])
    exact = tmp_path_factory.mktemp("exact")
    flags = attribute_flags(tiny_checkpoint, tiny_coco, folder / "captions_eval_results.json", exact)
    attribute.main(flags)
    return [*flags[: flags.index("--out")], "--list-length", "5", "--batch-size", "2"], exact


def test_screen_measures_the_best_of_the_estimate(sources, tmp_path, capsys):
    flags, exact = sources
    attribute.main([*flags, "--out", str(tmp_path), "--screen", "6"])
    whole, _, all_log_probs = read_attribution(exact)
    result, _, log_probs = read_attribution(tmp_path)
    shortlist = result["shortlist"]
    best = rank_heads(np.array(shortlist["estimated_contrastive_influence"]), 6)[0]
    measured = np.zeros((4, 4), dtype=bool)
    measured[tuple(np.array(best).T)] = True
    assert np.array_equal(~np.isnan(log_probs["heads"]).any(0), measured)
    assert np.allclose(log_probs["heads"][:, measured], all_log_probs["heads"][:, measured], atol=1e-5)
    scores = np.array(result["contrastive_influence"], dtype=float)
    assert np.array_equal(np.isnan(scores), ~measured)
    assert np.allclose(scores[measured], np.array(whole["contrastive_influence"])[measured], atol=1e-6)
    low = np.array(result["interval"]["contrastive_influence"][0], dtype=float)
    assert np.allclose(low[measured], np.array(whole["interval"]["contrastive_influence"][0])[measured], atol=1e-6)
    expected = sorted(map(tuple, np.argwhere(measured)), key=lambda head: -scores[head])[:5]
    assert [tuple(head) for head in result["hal_heads"]] == expected
    assert not {"non_hal_heads", "stability", "modules"} & result.keys()
    n_targets = len(log_probs["clean"])
    assert (shortlist["exact_evaluations"], shortlist["of"]) == (6 * n_targets, 16 * n_targets)
    printed = capsys.readouterr().out
    assert f"screen: {6 * n_targets:,} exact evaluations instead of {16 * n_targets:,}, 2.7x fewer" in printed
    assert (tmp_path / "head_map.png").is_file()


def test_race_drops_what_is_beaten_and_resumes(sources, tmp_path):
    flags, exact = sources
    flags = [*flags, "--out", str(tmp_path), "--race", "3"]
    attribute.main(flags)
    whole, hallucinated, all_log_probs = read_attribution(exact)
    result, _, log_probs = read_attribution(tmp_path)
    image_ids = np.array([json.loads(line)["image_id"] for line in (tmp_path / "targets.jsonl").open()])
    captions = list(dict.fromkeys(image_ids.tolist()))
    left_after = np.array(result["shortlist"]["left_after_captions"])
    assert 3 <= (left_after == 0).sum() < 16  # some went
    place = np.array([captions.index(image) for image in image_ids])
    expected = np.where((left_after == 0) | (place[:, None, None] < left_after), all_log_probs["heads"], np.nan)
    assert np.allclose(log_probs["heads"], expected, atol=1e-5, equal_nan=True)
    for n_seen in set(left_after[left_after > 0].tolist()):  # who leaves is beaten by those who were in till then
        alive = (left_after == 0) | (left_after >= n_seen)
        seen = place < n_seen
        influences = np.exp(log_probs["clean"])[seen, None] - np.exp(log_probs["heads"][seen][:, alive])
        beaten = beaten_heads(influences, hallucinated[seen], image_ids[seen], 3, 0.975)
        assert np.array_equal(beaten, left_after[alive] == n_seen)
    assert len(result["hal_heads"]) == 3
    bytes_of = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    sorted(tmp_path.glob("rounds/*/blocks/*.json"))[-1].unlink()
    attribute.main(flags)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")} == bytes_of


def test_wrong_shortlists_are_one_line(sources, tmp_path, capsys):
    flags, _ = sources
    for wrong, message in (
        (["--screen", "0"], "argument --screen: '0': expected a whole number of at least 1"),
        (["--race", "3", "--screen", "3"], "not allowed with"),
    ):
        with pytest.raises(SystemExit) as stopped:
            attribute.main([*flags, "--out", str(tmp_path / "new"), *wrong])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
