"""Head lists compared: counts by hand, scipy's Spearman, and the lists of parts of an attribution."""

import json
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.stats import spearmanr

from llava_hh.attribution.agreement import RESAMPLES, compare_rankings, correlate_ranks, in_how_many, load_ranking
from llava_hh.heads import PUBLISHED, Head
from llava_hh.metrics.chair.datasets import images_with_objects
from llava_hh.metrics.statistics import compare_with_reference
from llava_hh.scripts import attribute, evaluate
from tests.support.verbs import compare_heads


def write_list(path, heads, **content):
    path.write_text(json.dumps({"hal_heads": heads, **content}))
    return path


FIRST, SECOND = [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]], [[0, 1], [0, 0], [1, 2], [0, 2], [1, 0]]


def test_overlap_by_hand(tmp_path):
    first = load_ranking(write_list(tmp_path / "a.json", FIRST, n_layers=2, n_heads=3))
    found = compare_rankings(first, load_ranking(write_list(tmp_path / "b.json", SECOND)))
    overlap = found["overlap"]
    assert {k: (own["n"], own["share"], own["chance"]) for k, own in overlap.items()} == {
        1: (0, 0, 1 / 6),
        2: (2, 1, 2 / 6),
        5: (4, 0.8, 5 / 6),
    }
    assert overlap[5]["heads"] == [Head(0, 0), Head(0, 1), Head(1, 0), Head(1, 2)]
    assert found["rank_correlation"] is None
    # all pairs of two lists of k among six heads
    for k, own in overlap.items():
        draws = [len({*range(k)} & {*other}) for other in combinations(range(6), k)]
        assert own["p"] == pytest.approx(sum(n >= own["n"] for n in draws) / len(draws))


def test_chance_needs_the_size_of_the_model(tmp_path):
    lists = [load_ranking(write_list(tmp_path / f"{n}.json", heads)) for n, heads in enumerate((FIRST, SECOND))]
    assert "chance" not in compare_rankings(*lists)["overlap"][2]


def test_correlation_against_scipy_and_a_loop():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 6, (4, 5)).astype(float)  # with ties
    second = first + rng.normal(size=(4, 5)).round(1)
    first[0, 0], second[3, 4] = np.nan, np.nan
    known = ~np.isnan(first) & ~np.isnan(second)
    one, other = first[known], second[known]
    found = correlate_ranks(first, second, seed=3)
    assert found["n_heads"] == 18
    assert found["spearman"] == pytest.approx(spearmanr(one, other).statistic)
    rng, drawn = np.random.default_rng(3), []
    for _ in range(RESAMPLES):
        places = rng.integers(0, 18, 18)
        drawn.append(spearmanr(one[places], other[places]).statistic)
    assert found["interval"]["spearman"] == pytest.approx(np.percentile(drawn, (2.5, 97.5)).tolist())


def test_no_correlation_of_too_few_heads_or_equal_scores():
    scores = np.array([[1.0, 2.0, np.nan, 3.0]])
    assert correlate_ranks(scores, np.array([[1.0, np.nan, 2.0, 3.0]])) is None
    assert correlate_ranks(scores, np.ones((1, 4))) is None


def test_shared_heads_in_order():
    a, b, c, d = Head(0, 0), Head(0, 1), Head(1, 0), Head(1, 1)
    assert list(in_how_many([[a, b, c], [b, d, a]], k=2).items()) == [(b, [0, 1]), (a, [0]), (d, [1])]


def test_script_with_a_published_list(tmp_path, capsys):
    heads = json.loads((PUBLISHED / "llava-v1.5-7b.json").read_text())["hal_heads"]
    own = write_list(tmp_path / "own.json", heads[1:5] + [[0, 0]], n_layers=32, n_heads=32)
    out = tmp_path / "out.json"
    compare_heads([str(PUBLISHED / "llava-v1.5-7b.json"), str(own), "--top-k", "5", "--out", str(out)])
    content = json.loads(out.read_text())
    assert [content["pairs"][0]["overlap"][k]["n"] for k in ("1", "2", "5")] == [0, 1, 4]
    assert [entry["head"] for entry in content["heads"]] == [*heads[1:5], heads[0], [0, 0]]
    said = capsys.readouterr().out
    assert "| 5 | 4 (80%) | 0.5% |" in said
    assert f"top 5 of {own}: L0H0" in said


@pytest.mark.parametrize(
    ("lists", "line"),
    [
        (["7b"], "expected two or more head lists, each once"),
        (["7b", "7b"], "expected two or more head lists, each once"),
        (["7b", "13b"], "another size: 32 layers of 32 heads and 40 layers of 40 heads"),
    ],
)
def test_script_refuses(lists, line, capsys):
    with pytest.raises(SystemExit):
        compare_heads([str(PUBLISHED / f"llava-v1.5-{name}.json") for name in lists])
    assert line in capsys.readouterr().err


def test_scores_that_are_no_matrix_are_refused(tmp_path):
    for scores in ([1, 2], "many", [[1], [1, 2]]):
        with pytest.raises(ValueError, match="'contrastive_influence' must be layers of heads' scores"):
            load_ranking(write_list(tmp_path / "a.json", FIRST, contrastive_influence=scores))


def test_images_by_object():
    objects = {1: {"dog"}, 2: {"cat"}, 3: ["dog", "cat"], 4: set()}
    assert images_with_objects(objects, None, None) == {1, 2, 3, 4}
    assert images_with_objects(objects, ["dog"], None) == {1, 3}
    assert images_with_objects(objects, ["dog", "cat"], None) == {1, 2, 3}
    assert images_with_objects(objects, None, ["dog"]) == {2, 4}
    with pytest.raises(ValueError, match="--with-object 'dgo': in none of the 4 images"):
        images_with_objects(objects, ["dgo", "dog"], None)
    with pytest.raises(ValueError, match="--without-object cat dog: leaves none of the 3 images"):
        images_with_objects({key: objects[key] for key in (1, 2, 3)}, None, ["dog", "cat"])


def parts_of(tiny_results):
    """The attribution's folder, its captions, and an object that some but not all attributed images have."""
    folder = tiny_results / "train2014" / "identify_attention_head"
    captions = tiny_results / "train2014" / "captions_eval_results.json"
    images = {json.loads(line)["image_id"] for line in (folder / "targets.jsonl").read_text().splitlines()}
    sentences = json.loads(captions.read_text())["sentences"]
    objects = {entry["image_id"]: entry["mscoco_gt_words"] for entry in sentences if entry["image_id"] in images}
    return folder, captions, objects


def test_parts_of_an_attribution_against_a_loop(tiny_results, tmp_path):
    """A part's scores are differences of means over its own words; all images give the whole list."""
    folder, captions, objects = parts_of(tiny_results)
    whole = json.loads((folder / "attribution_result.json").read_text())
    flags = ["--of", str(folder), "--captions", str(captions)]
    attribute.main([*flags, "--out", str(tmp_path / "all")])
    everything = json.loads((tmp_path / "all" / "attribution_result.json").read_text())
    for key in ("hal_heads", "non_hal_heads", "contrastive_influence", "interval", "modules", "stability"):
        assert everything[key] == whole[key], key

    rows = [json.loads(line) for line in (folder / "targets.jsonl").read_text().splitlines()]
    arrays = load_file(folder / "ablations.safetensors")
    drops = np.exp(arrays["clean"])[:, None, None] - np.exp(arrays["heads"])
    for name in sorted({own for names in objects.values() for own in names}):
        means = []
        for hallucinated in (True, False):
            own = [
                drop
                for drop, row in zip(drops, rows, strict=True)
                if row["hallucinated"] == hallucinated and name in objects[row["image_id"]]
            ]
            means.append(np.mean(own, axis=0) if own else None)
        if all(mean is not None for mean in means) and not all(name in names for names in objects.values()):
            break
    else:
        pytest.fail("no object splits these images")
    attribute.main([*flags, "--with-object", name, "--out", str(tmp_path / "part")])
    part = json.loads((tmp_path / "part" / "attribution_result.json").read_text())
    assert part["contrastive_influence"] == pytest.approx(means[0] - means[1], abs=1e-6)
    assert part["n_captions"] == sum(name in names for names in objects.values())
    assert part["settings"]["with_object"] == [name]
    assert part["settings"]["model"] == whole["settings"]["model"]


@pytest.mark.parametrize("name", ["targets.jsonl", "ablations.safetensors"])
def test_files_that_changed_since_are_refused(name, tiny_results, tmp_path, capsys):
    folder, captions, _ = parts_of(tiny_results)
    own = Path(shutil.copytree(folder, tmp_path / "own"))
    content = (own / name).read_bytes()
    (own / name).write_bytes(b"".join(reversed(content.splitlines(keepends=True))) if "json" in name else content[:-4])
    with pytest.raises(SystemExit):
        attribute.main(["--of", str(own), "--captions", str(captions), "--out", str(tmp_path / "out")])
    assert f"error: {own / name}: is not what attribution_result.json beside it was made of" in capsys.readouterr().err


def test_captions_of_another_run_are_refused(tiny_results, tmp_path, capsys):
    """Of other images; and of the same ones, which an earlier prompt described."""
    folder, captions, _ = parts_of(tiny_results)
    content = json.loads(captions.read_text())
    for entry in content["sentences"]:
        entry["prompt"] = "describe the cat"
    (tmp_path / "same.json").write_text(json.dumps(content))
    for other in (tiny_results / "val2014" / "greedy" / "captions_eval_results.json", tmp_path / "same.json"):
        with pytest.raises(SystemExit):
            attribute.main(["--of", str(folder), "--captions", str(other), "--out", str(tmp_path)])
        assert f"--captions {other}: other captions than {folder} was made of" in capsys.readouterr().err


def test_decoding_with_lists_of_other_data_sets(tiny_checkpoint, tiny_coco, tmp_path):
    """Each list is AD-HH with its heads, compared with greedy decoding and with the first list."""
    own = write_list(tmp_path / "own.json", FIRST)
    other = write_list(tmp_path / "other.json", SECOND[2:])
    truth = json.loads((tiny_coco / "annotations" / "instances_val2014.json").read_text())
    names = {category["id"]: category["name"] for category in truth["categories"]}
    name = min(names[row["category_id"]] for row in truth["annotations"])
    out = tmp_path / "out"
    settings = "top_k=2,threshold=0.1"
    methods = [f'adhh:{settings},heads="{own}"', f'adhh:{settings},heads="{other}",label=b']
    evaluate.main(
        ["--model", str(tiny_checkpoint), "--image-folder", str(tiny_coco / "val2014")]
        + ["--annotations", str(tiny_coco / "annotations"), "--max-new-tokens", "6", "--without-object", name]
        + ["--methods", *methods, "--out", str(out)]
    )
    summary = json.loads((out / "summary.json").read_text())
    _, first, second = summary["methods"]
    kept = json.loads((out / second / "captions_eval_results.json").read_text())["sentences"]
    assert kept
    assert all(name not in entry["mscoco_gt_words"] for entry in kept)
    assert summary["settings"]["draw"]["without_object"] == [name]
    heads = {
        method: json.loads((out / method / "run.json").read_text())["settings"]["interventions"][0]["heads"]
        for method in (first, second)
    }
    assert heads == {first: FIRST[:2], second: SECOND[2:4]}
    assert summary["methods"][second]["label"] == "b"
    assert summary["methods"][second]["minus_first_of_kind"].pop("first") == first
    sentences = {
        method: json.loads((out / method / "captions_eval_results.json").read_text())["sentences"]
        for method in (first, second)
    }
    assert summary["methods"][second]["minus_first_of_kind"] == compare_with_reference(sentences, first)[second]
