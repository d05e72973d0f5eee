"""The loss of reference captions: against slow eager decoding step by step, a loop over resamples, and the script."""

import json

import numpy as np
import pytest

from llava_hh.attention.interventions import DeactivateText, ZeroHeads
from llava_hh.experiments.measures.reference_loss import answer_losses, reference_tokens, summarise_losses
from llava_hh.experiments.reference_loss import caption_metrics, mean_losses
from llava_hh.files.files import sha256
from llava_hh.files.images import load_image
from llava_hh.heads import Head
from llava_hh.metrics.statistics import RESAMPLES, image_weights
from llava_hh.models.lvlm import load_lvlm
from tests.support.harness import rows_in
from tests.support.slow_losses import PROMPT, slow_losses
from tests.support.tiny_results import of_kind

HEADS = (Head(0, 1), Head(1, 2), Head(2, 0), Head(3, 3))


@pytest.fixture(scope="module")
def lvlm(tiny_checkpoint):
    return load_lvlm(tiny_checkpoint)


@pytest.fixture(scope="module")
def images(tiny_coco):
    return [load_image(path) for path in sorted((tiny_coco / "val2014").glob("*.jpg"))[:3]]


@pytest.mark.parametrize("kind", ["none", "adhh", "zero"])
def test_losses_of_a_padded_batch_equal_slow_decoding(kind, lvlm, images):
    responses = [[12, 30, 41, 17], [55], [23, 23, 80, 61, 34, 90, 19]]
    edits = {"none": [], "adhh": [DeactivateText(HEADS, 0.3)], "zero": [ZeroHeads(HEADS)]}[kind]
    batch = lvlm.encode(images, [PROMPT] * 3, responses)
    assert len(set(batch.response_start)) == 3  # padded on the left
    found = answer_losses(lvlm, batch, responses, edits)
    expected, decisions = slow_losses(lvlm, images, responses, edits)
    assert found == pytest.approx(expected, rel=1e-5)
    if kind == "adhh":
        fired, decided = (sum(numbers) for numbers in zip(*decisions, strict=True))
        assert 0 < fired < decided
    if kind != "none":
        assert found != pytest.approx(answer_losses(lvlm, batch, responses), rel=1e-3)


def test_references_are_answers_without_an_end(lvlm):
    dog, cat = lvlm.tokenizer.convert_tokens_to_ids(["dog", "cat"])
    assert reference_tokens(lvlm, [" dog cat dog\n", "cat"], 2) == [[dog, cat], [cat]]
    with pytest.raises(ValueError, match="reference caption '  ' has no tokens"):
        reference_tokens(lvlm, ["dog", "  "], 5)


def test_a_summary_equals_a_loop_over_resamples():
    rng = np.random.default_rng(3)
    places = [(image_id, place) for image_id in (7, 3, 9, 4, 8) for place in range(1 + image_id % 3)]
    n_tokens = rng.integers(1, 9, len(places))
    rows = {
        name: [
            {"image_id": image_id, "caption": place, "nats": float(nats), "n_tokens": int(n)}
            for (image_id, place), nats, n in zip(places, rng.uniform(0, 20, len(places)), n_tokens, strict=True)
        ]
        for name in ("none", "zero")
    }
    found = summarise_losses(rows, "none", seed=5)
    weights = np.concatenate(list(image_weights(5, RESAMPLES, 5)))

    def loss(name, drawn):
        own = [(row, drawn[sorted((3, 4, 7, 8, 9)).index(row["image_id"])]) for row in rows[name]]
        return sum(row["nats"] * n for row, n in own) / sum(row["n_tokens"] * n for row, n in own)

    once = np.ones(5)
    spread = {name: np.array([loss(name, drawn) for drawn in weights]) for name in rows}
    for name in rows:
        assert found[name]["loss"] == pytest.approx(loss(name, once))
        assert found[name]["perplexity"] == pytest.approx(np.exp(loss(name, once)))
        assert found[name]["interval"]["loss"] == pytest.approx(np.percentile(spread[name], (2.5, 97.5)))
    assert found["zero"]["difference"] == pytest.approx(loss("zero", once) - loss("none", once))
    ends = np.percentile(spread["zero"] - spread["none"], (2.5, 97.5))
    assert found["zero"]["interval"]["difference"] == pytest.approx(ends)
    assert "difference" not in found["none"]
    assert (found["zero"]["n_images"], found["zero"]["n_captions"]) == (5, len(places))


def test_the_loss_of_a_group_is_the_mean_of_its_runs():
    rng = np.random.default_rng(4)
    shown = [{"image_id": image_id, "caption": 0, "n_tokens": int(rng.integers(1, 9))} for image_id in range(7)]
    runs = {str(run): [row | {"nats": rng.random()} for row in shown] for run in range(3)}
    found = summarise_losses(runs | {"mean": mean_losses([*runs.values()])}, "0")
    for value in ("loss", "difference"):
        assert found["mean"][value] == pytest.approx(np.mean([found[run].get(value, 0) for run in runs]))


def test_methods_on_other_captions_are_refused():
    row = {"image_id": 1, "caption": 0, "nats": 1.0, "n_tokens": 2}
    with pytest.raises(ValueError, match="methods of a group were measured on different captions"):
        mean_losses([[row], [row | {"caption": 1}]])
    with pytest.raises(ValueError, match="zero was measured on other captions or tokens than none"):
        summarise_losses({"none": [row], "zero": [row | {"n_tokens": 3}]}, "none")
    with pytest.raises(ValueError, match="no reference captions"):
        summarise_losses({"none": []}, "none")


def test_result_and_table(loss_run, scored_captions, capsys):
    """Of methods and of groups of draws; beside them, what CHAIR found in the captions of greedy decoding."""
    result = loss_run.read_result()["methods"]
    random = [next(loss_run.out.glob(f"random-*-{of}-*")).name for of in ("adhh", "removal")]
    means = {name: result.pop(name) for name in [*result] if "folders" in result[name]}
    assert [own["folders"] for own in means.values()] == [[name] for name in random]
    kinds = ["greedy", "adhh", "removal", "tfhh"]
    greedy, adhh, removal, tfhh = (of_kind(loss_run.out, kind).name for kind in kinds)
    assert [*result] == [greedy, adhh, removal, *random, tfhh]
    assert all(own["loss"] == pytest.approx(result[own["folders"][0]]["loss"]) for own in means.values())
    rows = {name: rows_in(loss_run.out / name, loss_run.rows) for name in result}
    assert len({json.dumps(own) for name, own in rows.items() if name != tfhh}) == 5
    for name, own in rows.items():
        loss = sum(row["nats"] for row in own) / sum(row["n_tokens"] for row in own)
        assert result[name]["loss"] == pytest.approx(loss)
    assert result[greedy]["captions"]["sha256"] == sha256(scored_captions)
    own = json.loads(scored_captions.read_text())["overall_metrics"]
    assert result[greedy]["captions"]["recall"] == pytest.approx(own["recall"], abs=1e-5)
    loss_run.evaluate(loss_run.out)  # prints its table once more
    table = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    heads, cells = next(
        (heads, cells) for heads, cells in zip(table, table[1:], strict=False) if cells[0] == "| greedy"
    )
    shown = {head.rstrip(" |"): cell.split(" (")[0] for head, cell in zip(heads, cells, strict=True)}
    values = {"length": own["length"], "mentions": own["mentions"], "recall %": 100 * own["recall"]}
    assert {name: shown[name] for name in values} == {name: f"{value:.1f}" for name, value in values.items()}


@pytest.mark.parametrize("run", [{"truth": {"a.json": "1"}}, {"sha256": {"/elsewhere/a.json": "1"}}])
def test_captions_scored_by_other_annotations_are_refused(run, tmp_path):
    captions = tmp_path / "captions_eval_results.json"
    captions.write_text(json.dumps({"sentences": [], "run": run}))
    with pytest.raises(ValueError, match=f"--captions {captions}: scored by another a.json than --annotations has"):
        caption_metrics([f"greedy={captions}"], {"a.json": "2", "b.json": "3"})
