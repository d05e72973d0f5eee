"""Intervals over images and overlap of halves: loops over resamples and splits written out; the picture of both."""

import json

import numpy as np
import pytest

from llava_hh.attribution import stability
from llava_hh.attribution.contrast import contrastive_influence, rank_heads
from llava_hh.attribution.stability import bootstrap_interval, half_contrasts, overlap_of_halves
from llava_hh.figures.head_map import draw_head_map
from llava_hh.metrics.statistics import image_weights

N_LAYERS, N_HEADS = 3, 4


def half_overlap(influences, hallucinated, image_ids, ks, **drawn):
    flat = influences.reshape(len(influences), -1)
    return overlap_of_halves(half_contrasts(flat, hallucinated, image_ids, **drawn), ks)


def targets(n_targets=40, n_images=8, seed=0, shape=(N_LAYERS, N_HEADS)):
    """Influences of targets of unevenly many words an image, in no order; some images have words of one kind only."""
    rng = np.random.default_rng(seed)
    image_ids = 100 - rng.integers(0, n_images, n_targets) ** 2
    hallucinated = rng.random(n_targets) < 0.3
    return rng.normal(size=(n_targets, *shape)).astype(np.float32), hallucinated, image_ids


def drawn_contrasts(influences, hallucinated, image_ids, resamples, seed):
    """Contrasts of resamples by repeating the targets of every drawn image."""
    images = np.unique(image_ids)
    found = []
    for row in np.concatenate(list(image_weights(len(images), resamples, seed))).astype(int):
        chosen = [
            n
            for image, times in zip(images, row, strict=True)
            for n in list(np.flatnonzero(image_ids == image)) * times
        ]
        if hallucinated[chosen].any() and not hallucinated[chosen].all():
            found.append(contrastive_influence(influences[chosen].astype(np.float64), hallucinated[chosen]))
    return np.array(found)


@pytest.mark.parametrize(
    ("n_targets", "n_images", "shape"), [(40, 8, (N_LAYERS, N_HEADS)), (6, 3, (2, 2)), (40, 8, (N_LAYERS,))]
)
def test_interval_equals_a_plain_bootstrap(n_targets, n_images, shape):
    data = targets(n_targets, n_images, shape=shape)
    low, high = bootstrap_interval(*data, resamples=300, seed=5)
    drawn = drawn_contrasts(*data, resamples=300, seed=5)
    assert len(drawn) < 300 or n_targets == 40  # the small case has resamples without a kind of words
    assert low.shape == high.shape == shape
    assert np.allclose([low, high], np.percentile(drawn, (2.5, 97.5), axis=0), rtol=0, atol=1e-12)


def test_matched_by_object_too(monkeypatch):
    influences, hallucinated, image_ids = targets(60, 8)
    objects = np.random.default_rng(1).choice(["cup", "dog", "fork"], 60)
    monkeypatch.setattr(stability, "PIECE", 700)  # two heads at once
    low, high = bootstrap_interval(influences, hallucinated, image_ids, objects, resamples=300, seed=5)
    images, found = np.unique(image_ids), []
    for row in np.concatenate(list(image_weights(len(images), 300, 5))).astype(int):
        chosen = [
            n for image, times in zip(images, row, strict=True) for n in [*np.flatnonzero(image_ids == image)] * times
        ]
        try:
            drawn = influences[chosen].astype(np.float64), hallucinated[chosen], objects[chosen]
            found.append(contrastive_influence(*drawn))
        except ValueError:  # no object of both kinds
            continue
    assert np.allclose([low, high], np.percentile(found, (2.5, 97.5), axis=0), rtol=0, atol=1e-12)
    flat = influences.reshape(60, -1)
    halves = half_contrasts(flat, hallucinated, image_ids, objects, splits=3, seed=2)
    in_first = np.isin(image_ids, images[np.random.default_rng(2).permutation(len(images))[: len(images) // 2]])
    for half, chosen in zip(halves[0], (in_first, ~in_first), strict=True):
        expected = contrastive_influence(flat[chosen].astype(np.float64), hallucinated[chosen], objects[chosen])
        assert np.allclose(half, expected, rtol=0, atol=1e-12)


def test_small_pieces_give_the_same_interval(monkeypatch):
    data = targets()
    whole = bootstrap_interval(*data, resamples=50)
    monkeypatch.setattr(stability, "PIECE", 250)  # 5 of the 12 heads at once
    monkeypatch.setattr("llava_hh.metrics.statistics.PIECE", 60)
    assert np.allclose(bootstrap_interval(*data, resamples=50), whole, rtol=0, atol=1e-12)


def test_words_of_an_image_stay_together():
    # one word in each of two images: whatever is drawn, a kept resample has the score itself
    influences, hallucinated = np.array([[[0.4]], [[0.1]]]), np.array([True, False])
    low, high = bootstrap_interval(influences, hallucinated, np.array([1, 2]))
    assert low == pytest.approx(0.3)
    assert high == pytest.approx(0.3)
    # every word twice in its image is no more evidence: the interval doesn't narrow
    many = np.repeat(influences, 50, axis=0) + np.random.default_rng(0).normal(size=(100, 1, 1))
    marks, images = np.repeat(hallucinated, 50), np.tile(np.arange(50), 2)
    once = bootstrap_interval(many, marks, images)
    twice = bootstrap_interval(np.tile(many, (2, 1, 1)), np.tile(marks, 2), np.tile(images, 2))
    assert np.allclose(once, twice, rtol=0, atol=1e-12)


def test_overlap_equals_splits_written_out():
    influences, hallucinated, image_ids = targets(n_targets=12, n_images=6)
    images = np.unique(image_ids)
    result = half_overlap(influences, hallucinated, image_ids, ks=(1, 3, 12), splits=60, seed=2)
    rng = np.random.default_rng(2)
    shares = {1: [], 3: [], 12: []}
    for _ in range(60):
        half = np.isin(image_ids, images[rng.permutation(len(images))[: len(images) // 2]])
        kinds = [hallucinated[half], hallucinated[~half]]
        if all(own.any() and not own.all() for own in kinds):
            lists = [
                rank_heads(contrastive_influence(influences[own].astype(np.float64), hallucinated[own]), 12)[0]
                for own in (half, ~half)
            ]
            for k, own in shares.items():
                own.append(sum(head in lists[1][:k] for head in lists[0][:k]) / k)
    assert 0 < len(shares[1]) < 60  # splits with a half of one kind are dropped
    for k, own in shares.items():
        assert result[k]["mean"] == pytest.approx(np.mean(own))
        assert result[k]["interval"]["mean"] == pytest.approx(list(np.percentile(own, (2.5, 97.5))))
        assert result[k]["chance"] == k / 12
        assert result[k]["n_splits"] == len(own)
    assert result[12]["mean"] == 1.0


def test_overlap_of_a_clear_list_is_whole_and_of_noise_is_chance():
    rng = np.random.default_rng(0)
    hallucinated, image_ids = np.tile([True, False], 100), np.repeat(np.arange(100), 2)
    clear = np.zeros((200, 5, 8))
    clear[hallucinated] += np.arange(40).reshape(5, 8)
    clear += 0.1 * rng.normal(size=clear.shape)
    assert half_overlap(clear, hallucinated, image_ids, [10])[10]["mean"] == 1.0
    noise = [
        half_overlap(rng.normal(size=(200, 5, 8)), hallucinated, image_ids, [10], splits=20)[10]["mean"]
        for _ in range(30)
    ]
    assert np.mean(noise) == pytest.approx(10 / 40, abs=0.05)


def test_too_few_images_have_no_overlap():
    influences, hallucinated = np.zeros((2, 2, 2)), np.array([True, False])
    assert half_overlap(influences, hallucinated, np.array([7, 7]), [1]) == {}
    assert half_overlap(influences, hallucinated, np.array([7, 8]), [1]) == {}  # no half has both kinds
    assert half_overlap(influences, hallucinated, np.array([7, 8]), []) == {}
    low, high = bootstrap_interval(influences + [[[1]], [[0.5]]], hallucinated, np.array([7, 7]))
    assert np.array_equal(low, np.full((2, 2), 0.5))
    assert np.array_equal(high, low)


def test_wrong_input_is_named():
    influences, hallucinated, image_ids = targets()
    with pytest.raises(ValueError, match="40 targets need as many image ids, not 39"):
        bootstrap_interval(influences, hallucinated, image_ids[1:])
    with pytest.raises(ValueError, match="no hallucinated object token"):
        bootstrap_interval(influences, hallucinated & False, image_ids)
    for k in (0, 13):
        with pytest.raises(ValueError, match=f"top {k} heads is not possible: there are 12"):
            half_overlap(influences, hallucinated, image_ids, [1, k])


@pytest.mark.parametrize("read_out", ["probability", "absolute", "log"])
def test_picture_of_scores_and_intervals(read_out, tmp_path):
    influences, hallucinated, image_ids = targets()
    low, high = bootstrap_interval(influences, hallucinated, image_ids, resamples=20)
    contrast = contrastive_influence(influences, hallucinated)
    result = {
        "hal_heads": rank_heads(contrast, 4)[0],
        "contrastive_influence": contrast.tolist(),
        "interval": {"contrastive_influence": [low.tolist(), high.tolist()]},
        "read_out": read_out,
        "n_hallucinated_words": int(hallucinated.sum()),
        "n_true_words": int((~hallucinated).sum()),
        "n_captions": 8,
    }
    (tmp_path / "result.json").write_text(json.dumps(result))
    draw_head_map(tmp_path / "result.json", tmp_path / "first")
    draw_head_map(tmp_path / "result.json", tmp_path / "second")
    assert (tmp_path / "first.png").stat().st_size > 10_000
    for ending in ("png", "pdf"):
        assert (tmp_path / f"first.{ending}").read_bytes() == (tmp_path / f"second.{ending}").read_bytes()
