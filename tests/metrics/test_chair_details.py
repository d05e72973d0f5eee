"""CHAIR in detail: a table worked out by hand, and loops over random captions."""

import json
from itertools import product
from math import comb, sqrt

import numpy as np
import pytest

from llava_hh.metrics.chair.chair import corpus_metrics, score_caption
from llava_hh.metrics.chair.details import N_PARTS, by_category, by_position, co_occurrence, mention_positions, wilson
from llava_hh.metrics.statistics import RESAMPLES, image_weights
from tests.support.verbs import compare_details

# caption, what is in the image
CAPTIONS = [
    ("A fork. There is a knife and a knife.", {"fork"}),
    ("A fork and a cup.", {"fork", "cup"}),
    ("A cup, a knife.", {"fork", "cup"}),
    ("A dog. Nothing else.", {"dog", "cup"}),
    ("A cat.", {"cat", "knife"}),
]
NAMES = ["cat", "cup", "dog", "fork", "knife"]


def entries(captions=CAPTIONS):
    return [{"image_id": n, **score_caption(text, objects)} for n, (text, objects) in enumerate(captions)]


def random_captions(n, seed):
    rng = np.random.default_rng(seed)
    return [
        (
            " ".join(f"There is a {'. A '.join(rng.choice(NAMES, 2))}." for _ in range(rng.integers(1, 4))),
            set(rng.choice(NAMES, rng.integers(1, 4)).tolist()),
        )
        for _ in range(n)
    ]


def test_categories_by_hand():
    table = by_category(entries(), [*NAMES, "zebra"])
    keys = ("mentions", "hallucinated_mentions", "named", "hallucinated", "there", "missed")
    assert {name: tuple(own[key] for key in keys) for name, own in table.items()} == {
        "cat": (1, 0, 1, 0, 1, 0),
        "cup": (2, 0, 2, 0, 3, 1),
        "dog": (1, 0, 1, 0, 1, 0),
        "fork": (2, 0, 2, 0, 3, 1),
        "knife": (3, 3, 2, 2, 1, 1),
        "zebra": (0, 0, 0, 0, 0, 0),
    }
    assert (table["knife"]["rate"], table["cup"]["missed_rate"]) == (1, pytest.approx(1 / 3, abs=1e-5))
    assert [table["zebra"][key] for key in ("rate", "missed_rate")] == [None] * 2
    assert table["zebra"]["interval"] == {"rate": None, "missed_rate": None}
    assert table["knife"]["interval"]["rate"] == wilson(2, 2)
    assert table["cup"]["interval"]["missed_rate"] == wilson(1, 3)


def test_categories_add_up_to_chair():
    sentences = entries(random_captions(40, seed=0))
    table, overall = by_category(sentences, NAMES).values(), corpus_metrics(sentences)
    assert sum(own["mentions"] for own in table) == overall["n_mentions"]
    assert sum(own["hallucinated_mentions"] for own in table) == overall["n_hallucinated_mentions"] > 0
    found = sum(own["there"] - own["missed"] for own in table)
    assert found / sum(own["there"] for own in table) == pytest.approx(overall["recall"])
    assert found / sum(own["named"] for own in table) == pytest.approx(overall["precision"])


@pytest.mark.parametrize(("part", "whole"), [(0, 4), (3, 7), (5, 5), (40, 100)])
def test_wilson_by_its_formula(part, whole):
    z, share = 1.959963984540054, part / whole
    centre = (share + z * z / (2 * whole)) / (1 + z * z / whole)
    half = z / (1 + z * z / whole) * sqrt(share * (1 - share) / whole + z * z / (4 * whole**2))
    assert wilson(part, whole) == pytest.approx([centre - half, centre + half], abs=1e-5)


def test_co_occurrence_by_hand():
    """The knife is hallucinated in the first and third image; the first four lack it."""
    pairs = co_occurrence(entries())
    known = {(p["hallucinated"], p["there"]): (p["n"], p["n_hallucinated"], p["share"], p["base"]) for p in pairs}
    assert known == {("knife", "fork"): (2, 2, 1.0, 0.75), ("knife", "cup"): (1, 2, 0.5, 0.75)}
    assert [pair["lift"] for pair in pairs] == pytest.approx([1 / 0.75, 0.5 / 0.75])
    # of the 6 ways to draw 2 of the 4 images, 3 have the fork twice; all have the cup once
    assert [pair["p"] for pair in pairs] == pytest.approx([0.5, 1])
    # dog is in one of the four, never beside the knife: a third test of p = 1
    assert [pair["p_holm"] for pair in pairs] == pytest.approx([1, 1])


def test_co_occurrence_against_a_loop():
    captions = random_captions(30, seed=1)
    sentences = entries(captions)
    found = {(pair["hallucinated"], pair["there"]): pair for pair in co_occurrence(sentences)}
    expected, tests = {}, []
    for h, o in product(NAMES, NAMES):
        free = [(h in text.replace(".", "").split(), o in real) for text, real in captions if h not in real]
        wrong, base = sum(named for named, _ in free), sum(there for _, there in free)
        n = sum(named and there for named, there in free)
        if wrong and base:
            ways = [comb(base, k) * comb(len(free) - base, wrong - k) for k in range(n, min(base, wrong) + 1)]
            tests.append(sum(ways) / comb(len(free), wrong))
            if n:
                expected[h, o] = (n, n / wrong / (base / len(free)), tests[-1])
    assert len(expected) > 5
    assert {key: (p["n"], pytest.approx(p["lift"]), pytest.approx(p["p"])) for key, p in found.items()} == expected
    ranked = sorted(tests)
    holm = [max(min(1, (len(ranked) - k) * ranked[k]) for k in range(place + 1)) for place in range(len(ranked))]
    for pair in found.values():
        place = min(range(len(ranked)), key=lambda k: abs(ranked[k] - pair["p"]))
        assert pair["p_holm"] == pytest.approx(holm[place])


def test_places_by_hand():
    first = entries()[0]
    assert first["words"] == ["a", "fork", ".", "there", "is", "a", "knife", "and", "a", "knife", "."]
    assert mention_positions(first) == [
        {"part": 0, "mention": 0, "sentence": 0, "hallucinated": 0},  # item 1 of 11
        {"part": 2, "mention": 1, "sentence": 1, "hallucinated": 1},  # 6 of 11
        {"part": 4, "mention": 2, "sentence": 1, "hallucinated": 1},  # 9 of 11
    ]
    many = score_caption("İ! " + "A knife. " * 12, {"fork"})
    assert [place["sentence"] for place in mention_positions(many)] == [1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 7, 7]
    assert [place["mention"] for place in mention_positions(many)] == [0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 7]


def test_positions_by_hand():
    by_mention = by_position(entries())["mention"]
    assert [(own["mentions"], own["hallucinated"]) for own in by_mention["places"]] == [
        *[(5, 0), (3, 2), (1, 1)],
        *[(0, 0)] * 5,
    ]
    assert [own["share"] for own in by_mention["places"][:4]] == [0, pytest.approx(2 / 3, abs=1e-5), 1, None]
    assert by_mention["places"][3]["interval"] == {"share": None}
    # hallucinated at 1, 2, 1; true ones at 0, 0, 1, 0, 0, 0
    assert by_mention["later_minus_earlier"]["mean"] == pytest.approx(4 / 3 - 1 / 6, abs=1e-5)


def test_a_sentence_without_objects_counts_and_true_captions_have_no_gap():
    positions = by_position(entries([("Well. A dog. A cat.", {"dog", "cat"})]))
    assert [own["mentions"] for own in positions["sentence"]["places"][:4]] == [0, 1, 1, 0]
    assert positions["part"]["later_minus_earlier"] is None


@pytest.mark.parametrize("kind", ["part", "mention", "sentence"])
def test_intervals_of_positions_against_a_loop(kind):
    sentences = entries(random_captions(12, seed=2))
    places = [mention_positions(entry) for entry in sentences]
    shares, gaps = [[] for _ in range(8)], []
    for weights in np.concatenate([*image_weights(len(sentences), RESAMPLES, seed=0)]).astype(int):
        drawn = [mention for times, own in zip(weights, places, strict=True) for mention in own * times]
        for place, own in enumerate(shares):
            here = [mention["hallucinated"] for mention in drawn if mention[kind] == place]
            if here:
                own.append(sum(here) / len(here))
        wrong, right = ([m[kind] for m in drawn if m["hallucinated"] == which] for which in (1, 0))
        if wrong and right:
            gaps.append(sum(wrong) / len(wrong) - sum(right) / len(right))
    found = by_position(sentences)[kind]
    for own, expected in zip(found["places"], shares, strict=False):
        if own["mentions"]:
            assert own["interval"]["share"] == pytest.approx(np.percentile(expected, (2.5, 97.5)).tolist(), abs=1e-5)
    assert found["later_minus_earlier"]["interval"]["mean"] == pytest.approx(
        np.percentile(gaps, (2.5, 97.5)).tolist(), abs=1e-5
    )
    assert len(by_position(sentences)["part"]["places"]) == N_PARTS


def write_run(folder, captions):
    folder.mkdir(parents=True)
    sentences = entries(captions)
    content = {"sentences": sentences, "overall_metrics": corpus_metrics(sentences)}
    (folder / "captions_eval_results.json").write_text(json.dumps(content))
    return folder


def test_script_on_a_folder_of_runs(tmp_path, capsys):
    right = [(f"A {min(objects)}.", objects) for _, objects in CAPTIONS]
    write_run(tmp_path / "runs" / "adhh", right)
    write_run(tmp_path / "runs" / "greedy", CAPTIONS)
    out = tmp_path / "out"
    compare_details([str(tmp_path / "runs"), "--out", str(out)])
    details = json.loads((out / "chair_details.json").read_text())
    assert [run["label"] for run in details["runs"].values()] == ["greedy", "AD-HH"]
    assert details["runs"]["greedy"]["categories"]["knife"] == by_category(entries(), ["knife"])["knife"]
    assert details["runs"]["greedy"]["co_occurrence"] == co_occurrence(entries())
    assert details["runs"]["adhh"]["co_occurrence"] == []
    assert len(details["runs"]["adhh"]["categories"]) == 80
    for stem in ("chair_categories", "chair_cooccurrence", "chair_positions"):
        for ending in ("png", "pdf"):
            assert (out / f"{stem}.{ending}").stat().st_size > 5000
    said = capsys.readouterr().out
    assert "greedy: hallucinated most, in captions that name it: knife 2 of 2" in said
    assert "AD-HH: hallucinated most, in captions that name it: nothing" in said


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        ("other", "other images, ground truth or rules of CHAIR than the first run has"),
        ("twice", "two runs are called 'greedy'"),
        ("missing", "expected a captions_eval_results.json, or a folder of runs that have one"),
        ("bare", "entry 0 of `sentences`: its caption is not as llava-hh score chair writes it"),
    ],
)
def test_script_refuses(problem, line, tmp_path, capsys):
    greedy = write_run(tmp_path / "greedy", CAPTIONS)
    second = {
        "other": lambda: write_run(tmp_path / "adhh", CAPTIONS[:3]),
        "twice": lambda: write_run(tmp_path / "more" / "greedy", CAPTIONS),
        "missing": lambda: tmp_path / "nowhere",
        "bare": lambda: tmp_path / "bare.json",
    }[problem]()
    if problem == "bare":
        second.write_text('{"sentences": [{"image_id": 1}], "overall_metrics": {"variant": "hh"}}')
    with pytest.raises(SystemExit):
        compare_details([str(greedy), str(second), "--out", str(tmp_path / "out")])
    assert line in capsys.readouterr().err
