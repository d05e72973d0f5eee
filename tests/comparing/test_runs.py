"""compare runs: statistics against plain loops, wins and losses, captions that cannot steer the terminal."""

import json
from itertools import product

import numpy as np
import pytest

from llava_hh.metrics.statistics import RESAMPLES, image_weights
from tests.support.compared_runs import LIMIT, chair_i, compared, recall, sentences_of
from tests.support.verbs import compare_seeds


def test_statistics_equal_all_swaps_and_a_loop_of_resamples(compared_session, tmp_path):
    _, greedy, zero = compared_session
    result = compared(tmp_path, greedy, zero, "--metrics", "CHAIRi", "recall", "--seed", 3)["runs"][str(zero)]
    base, own = sentences_of(greedy), sentences_of(zero)
    p_values = []
    for metric, compute in (("CHAIRi", chair_i), ("recall", recall)):
        observed = compute(own) - compute(base)
        assert observed != 0
        at_least = 0
        for swaps in product([False, True], repeat=LIMIT):
            ones = [b if swap else a for a, b, swap in zip(own, base, swaps, strict=True)]
            others = [a if swap else b for a, b, swap in zip(own, base, swaps, strict=True)]
            at_least += abs(compute(ones) - compute(others)) >= abs(observed) - 1e-9
        p_values.append(at_least / 2**LIMIT)
        spread = []
        for weights in np.concatenate(list(image_weights(LIMIT, RESAMPLES, 3))).astype(int):
            drawn = [place for place, times in enumerate(weights) for _ in range(times)]
            spread.append(compute([own[place] for place in drawn]) - compute([base[place] for place in drawn]))
        found = result["difference"][metric]
        assert found["difference"] == pytest.approx(observed, abs=1e-5)
        assert found["interval"]["difference"] == pytest.approx(np.percentile(spread, (2.5, 97.5)), abs=2e-5)
        assert found["p"] == pytest.approx(p_values[-1], abs=1e-6)
        assert result[metric] == pytest.approx(compute(own), abs=1e-5)
    low, high = sorted(p_values)
    expected = sorted([min(1, 2 * low), max(min(1, 2 * low), high)])
    assert sorted(test["p_holm"] for test in result["difference"].values()) == pytest.approx(expected, abs=1e-6)


def test_wins_and_losses_are_the_images_that_differ(compared_session, tmp_path, capsys):
    _, greedy, zero = compared_session
    result = compared(tmp_path, greedy, zero, "--examples", LIMIT)["runs"][str(zero)]
    gained = {}
    for base, own in zip(sentences_of(greedy), sentences_of(zero), strict=True):
        wrong = [{node for _, node in entry["mscoco_hallucinated_words"]} for entry in (base, own)]
        gained[base["image_id"]] = len(wrong[0]) - len(wrong[1])
    found = {example["image_id"]: example["fewer"] for kind in ("wins", "losses") for example in result[kind]}
    assert found == {image_id: value for image_id, value in gained.items() if value}
    assert [example["fewer"] > 0 for example in result["wins"]] == [True] * result["n_wins"]
    assert result["n_wins"] + result["n_losses"] + result["n_ties"] == LIMIT
    assert result["n_wins"] * result["n_losses"] > 0
    sizes = [example["fewer"] for example in result["wins"]]
    assert sizes == sorted(sizes, reverse=True)
    example, captions = result["losses"][0], {entry["image_id"]: entry["caption"] for entry in sentences_of(zero)}
    assert example["other"]["caption"] == captions[example["image_id"]]
    assert f"  {zero} [{', '.join(example['other']['hallucinated'])}]: {captions[example['image_id']]}" in (
        capsys.readouterr().out.splitlines()
    )
    assert result["n_same_files"] == LIMIT
    few = compared(tmp_path, greedy, zero, "--examples", 1)["runs"][str(zero)]
    assert (few["wins"], few["losses"]) == (result["wins"][:1], result["losses"][:1])


def test_captions_cannot_steer_the_terminal(made, tmp_path, capsys):
    _, greedy, zero = made
    path = zero / "captions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["text"] = "\x1b[2J<b>é</b>\nnothing"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    annotations = ["--annotations", made[0].coco / "annotations"]
    result = compared(tmp_path, greedy, zero, *annotations)["runs"][str(zero)]
    assert result["wins"][0]["other"]["caption"] == "\x1b[2J<b>é</b>\nnothing"
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "]: \\x1b[2J<b>é</b>\\nnothing" in out


def test_rows_in_another_order_and_files_instead_of_folders(made, tmp_path):
    maker, greedy, zero = made
    path = zero / "captions.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    maker.evaluate(zero)
    first = compared(tmp_path, greedy, maker.edited("again"))["runs"]
    second = compared(tmp_path, greedy / "captions.jsonl", path)["runs"]
    assert list(first.values())[1]["difference"] == second[str(path)]["difference"]


@pytest.mark.parametrize("change", [{"mscoco_gt_words": ["cat", "dog"]}, None])
def test_seeds_scored_by_other_truth_or_rules_are_refused(change, tmp_path, capsys):
    entry = {"image_id": 1, "caption": "A dog.", "words": ["dog"], "mscoco_gt_words": ["dog"]}
    entry |= {"mscoco_hallucinated_words": [], "mscoco_non_hallucinated_words": [["dog", "dog"]]}
    entry["mentions"] = [{"word": "dog", "node": "dog", "start": 2, "end": 5, "hallucinated": False}]
    content = {"sentences": [entry], "overall_metrics": {"variant": "hh"}}
    other = {"sentences": [entry | (change or {})], "overall_metrics": {"variant": "hh" if change else "original"}}
    for name, own in {"one": content, "two": content, "greedy": other}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "captions_eval_results.json").write_text(json.dumps(own))
    runs = [str(tmp_path / name) for name in ("one", "two", "greedy")]
    with pytest.raises(SystemExit):
        compare_seeds(["--runs", *runs[:2], "--reference", runs[2]])
    assert "greedy/captions_eval_results.json: other ground truth or rules of CHAIR than" in capsys.readouterr().err
    compare_seeds(["--runs", *runs[:2], "--reference", runs[0]])
