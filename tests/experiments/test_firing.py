"""Control heads that fire as often: rates against eager attention and against generation, draws by a table by hand."""

import json
import math
from argparse import Namespace

import numpy as np
import pytest
import torch

from llava_hh.attention.hooks import intervene
from llava_hh.attention.interventions import DeactivateText
from llava_hh.experiments import firing
from llava_hh.experiments.firing import fired_counts, firing_rates, matched_heads
from llava_hh.files.images import load_image
from llava_hh.heads import Head
from llava_hh.models.lvlm import Lvlm, load_lvlm
from llava_hh.scripts.evaluate import rate_controls
from tests.support.launching import finish, launch
from tests.support.tiny_newer import save_tiny_family

THRESHOLD = 0.8
CAPTIONS = [("a dog and the cat .", "stop"), ("the dog", "length"), ("", "stop"), ("a cat and a dog a", "length")]


@pytest.fixture(scope="module")
def lvlm(tiny_checkpoint) -> Lvlm:
    return load_lvlm(tiny_checkpoint)


@pytest.fixture(scope="module")
def given(lvlm, tiny_coco, tmp_path_factory) -> tuple:
    """A file of four captions, and the folder of their images."""
    images = sorted((tiny_coco / "train2014").iterdir())
    path = tmp_path_factory.mktemp("captions") / "captions_eval_results.json"
    write_captions(path, lvlm, [image.name for image in images[:4]])
    return path, tiny_coco / "train2014"


def write_captions(path, lvlm: Lvlm, images: list[str]) -> None:
    sentences = [
        {
            "image_id": place,
            "image": images[place],
            "prompt": "describe",
            "token_ids": lvlm.tokenizer(caption, add_special_tokens=False).input_ids if caption else [],
            "finish_reason": reason,
            "caption": caption,
            "mentions": [],
            "metrics": {"CHAIRs": 0},
        }
        for place, (caption, reason) in enumerate(CAPTIONS)
    ]
    path.write_text(json.dumps({"sentences": sentences}))


def slow_rates(lvlm: Lvlm, captions, folder, threshold: float) -> np.ndarray:
    """By eager attention maps and loops: at each position that a token was generated at, the mass after the image."""
    fired, decided = np.zeros((lvlm.n_layers, lvlm.n_heads)), 0
    lvlm.model.set_attn_implementation("eager")
    for entry in json.loads(captions.read_text())["sentences"]:
        batch = lvlm.encode([load_image(folder / entry["image"])], [entry["prompt"]], [entry["token_ids"]])
        with torch.no_grad():
            maps = lvlm.model(**batch.inputs, output_attentions=True).attentions
        last_image = max(place for place, image in enumerate(batch.image_mask[0].tolist()) if image)
        n_generated = len(entry["token_ids"]) + (entry["finish_reason"] == "stop")
        for generated in range(n_generated):
            query = batch.response_start[0] - 1 + generated
            decided += 1
            for layer, head in np.ndindex(fired.shape):
                mass = math.fsum(maps[layer][0, head, query, last_image + 1 : query + 1].tolist())
                assert abs(mass - threshold) > 1e-6, "rounding decides"
                fired[layer, head] += mass >= threshold
    lvlm.model.set_attn_implementation("sdpa")
    assert decided == 6 + 1 + 2 + 1 + 6
    return fired / decided


def test_rates_equal_loops_over_eager_attention(lvlm, given, tmp_path):
    expected = slow_rates(lvlm, *given, THRESHOLD)
    assert 0 < expected.mean() < 1 and len(np.unique(expected)) > 5
    found = firing_rates(lvlm, *given, THRESHOLD, tmp_path, batch_size=3)
    assert np.array_equal(found, expected)
    result = json.loads((tmp_path / "firing_rates.json").read_text())
    assert result["rates"] == expected.tolist()
    assert (result["n_tokens"], result["n_captions"], result["settings"]["threshold"]) == (16, 4, THRESHOLD)
    assert {"model", "captions_sha256"} <= result["settings"].keys()


def test_a_threshold_of_zero_always_fires(lvlm, given, tmp_path):
    assert (firing_rates(lvlm, *given, 0.0, tmp_path, batch_size=4) == 1).all()


def test_counts_are_those_of_generation(lvlm, given):
    """The same rows decide where the model generates the caption, token by token, with a cache."""
    images = [load_image(path) for path in sorted(given[1].iterdir())[:3]]
    heads = [Head(*place) for place in np.ndindex(lvlm.n_layers, lvlm.n_heads)]
    fired = np.zeros((len(heads), 2), dtype=int)
    counted = np.zeros_like(fired)
    for image in images:
        batch = lvlm.encode([image], ["describe a dog"])
        with intervene(lvlm.model, batch.image_mask, [firing._Watch(tuple(heads), THRESHOLD)]) as trace:
            output = lvlm.model.generate(**batch.inputs, max_new_tokens=7, do_sample=False)
        ids = output[0, batch.inputs["input_ids"].shape[1] :].tolist()
        fired += [trace.fired[head] for head in heads]
        ends = ids[-1] in lvlm.end_token_ids
        forced = lvlm.encode([image], ["describe a dog"], [ids[:-1] if ends else ids])
        counted += fired_counts(lvlm, forced, len(ids), THRESHOLD, heads)
    assert np.array_equal(fired, counted)
    assert 0 < fired[:, 0].sum() < fired[:, 1].sum()


def test_watching_edits_nothing_and_deactivating_does(lvlm, given):
    batch = lvlm.encode([load_image(next(given[1].iterdir()))], ["describe"], [[20, 21, 22]])
    heads = tuple(Head(layer, head) for layer in range(lvlm.n_layers) for head in range(lvlm.n_heads))
    with torch.no_grad():
        plain = lvlm.model(**batch.inputs).logits
        for edit in (firing._Watch(heads, 0.1), DeactivateText(heads, 0.1)):
            with intervene(lvlm.model, batch.image_mask, [edit], batch.response_start) as trace:
                logits = lvlm.model(**batch.inputs).logits
            assert torch.equal(logits, plain) == isinstance(edit, firing._Watch)
            assert sum(each.fired for each in trace.fired.values())


def test_a_run_resumes_and_is_held_to_its_threshold(lvlm, given, tmp_path, monkeypatch):
    expected = firing_rates(lvlm, *given, THRESHOLD, tmp_path / "whole", batch_size=1)
    calls = []

    def counted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fired_counts(*args)

    monkeypatch.setattr(firing, "fired_counts", counted)
    out = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        firing_rates(lvlm, *given, THRESHOLD, out, batch_size=1)
    assert np.array_equal(firing_rates(lvlm, *given, THRESHOLD, out, batch_size=1), expected)
    assert len(calls) == 5
    fewer = firing_rates(lvlm, *given, THRESHOLD, out, batch_size=1, limit=2)
    assert len(calls) == 5 and not np.array_equal(fewer, expected)
    with pytest.raises(ValueError, match=r"begun with other settings: threshold was 0\.8, is 0\.7"):
        firing_rates(lvlm, *given, 0.7, out, batch_size=1)


def test_two_processes_get_the_rates_of_one(lvlm, given, tmp_path):
    expected = firing_rates(lvlm, *given, THRESHOLD, tmp_path / "alone", batch_size=1)
    flags = [str(flag) for flag in (lvlm.path, *given, tmp_path / "two", THRESHOLD)]
    finish(launch(2, "tests.support.firing_ranks", flags))
    for rank in range(2):
        assert json.loads((tmp_path / "two" / f"of_rank_{rank}.txt").read_text()) == expected.tolist()


def test_little_memory_takes_fewer_heads(lvlm, given, tmp_path, monkeypatch):
    expected, refused = firing_rates(lvlm, *given, THRESHOLD, tmp_path / "all", batch_size=4), []

    def few(model, mask, edits, starts):
        if len(edits[0].heads) > 5:
            refused.append(edits)
            raise torch.OutOfMemoryError("out of memory")
        return intervene(model, mask, edits, starts)

    monkeypatch.setattr(firing, "intervene", few)
    assert np.array_equal(firing_rates(lvlm, *given, THRESHOLD, tmp_path / "few", batch_size=4), expected)
    assert refused


# --- the draw

RATES = np.array(
    [
        [0.50, 0.10, 0.48, 0.53, 0.40, 0.90],
        [0.00, 0.52, 0.51, 0.00, 0.00, np.nan],
        [0.00, 0.61, 0.00, 0.00, 0.00, 0.30],
    ]
)


def drawn(heads: list[Head], seeds: int, rates: np.ndarray = RATES) -> list[list[Head]]:
    return [matched_heads(rates, heads, seed) for seed in range(seeds)]


def test_one_of_the_five_nearest_by_hand():
    """Rates by their distance from 0.50: 0.51, 0.48 and 0.52, 0.53, 0.40; then 0.61."""
    near = {Head(1, 2), Head(0, 2), Head(1, 1), Head(0, 3), Head(0, 4)}
    assert {own for [own] in drawn([Head(0, 0)], 100)} == near
    # 0.48 is chosen itself, so 0.61 is the fifth
    both = drawn([Head(0, 0), Head(0, 2)], 200)
    assert {own[0] for own in both} == near - {Head(0, 2)} | {Head(2, 1)}
    assert all(own[0] != own[1] and not {Head(0, 0), Head(0, 2)} & {*own} for own in both)


def test_equally_near_ones_have_the_same_chance():
    """Beside L1H0 six heads never fire, and any of them may be among the five."""
    never = [Head(1, 3), Head(1, 4), Head(2, 0), Head(2, 2), Head(2, 3), Head(2, 4)]
    counts = dict.fromkeys(never, 0)
    for [own] in drawn([Head(1, 0)], 600):
        counts[own] += 1
    assert min(counts.values()) > 60


def test_a_seed_draws_the_same_heads():
    heads = [Head(0, 0), Head(0, 5), Head(1, 0)]
    assert drawn(heads, 5) == drawn(heads, 5)
    assert len({tuple(own) for own in drawn(heads, 5)}) > 1


def test_too_few_heads_and_wrong_ones():
    rates = np.array([[0.1, 0.2, np.nan, 0.3]])
    assert {tuple(own) for own in drawn([Head(0, 0)], 20, rates)} == {(Head(0, 1),), (Head(0, 3),)}
    with pytest.raises(ValueError, match="2 heads need as many others to compare with; there are 1"):
        matched_heads(rates, [Head(0, 0), Head(0, 1)], 0)
    with pytest.raises(ValueError, match="L0H2 cannot fire"):
        matched_heads(rates, [Head(0, 2)], 0)
    with pytest.raises(ValueError, match="L0H0 stands twice"):
        matched_heads(rates, [Head(0, 0), Head(0, 0)], 0)
    with pytest.raises(IndexError, match="no head L0H4"):
        matched_heads(rates, [Head(0, 4)], 0)


def test_controls_of_every_seed_by_their_rates(lvlm, given, tmp_path):
    heads = [Head(3, 1), Head(0, 2)]
    rates = firing_rates(lvlm, *given, THRESHOLD, tmp_path, batch_size=2)
    expected = slow_rates(lvlm, *given, THRESHOLD)
    assert [rates[head] for head in heads] == [expected[head] for head in heads]
    for seed in (0, 7):
        assert matched_heads(rates, heads, seed) == matched_heads(expected, heads, seed)


def test_heads_without_text_have_no_rate(tmp_path, tiny_coco):
    save_tiny_family("mllama", tmp_path / "model")
    lvlm = load_lvlm(tmp_path / "model")
    images = sorted((tiny_coco / "train2014").iterdir())
    write_captions(tmp_path / "captions_eval_results.json", lvlm, [image.name for image in images[:4]])
    given = (tmp_path / "captions_eval_results.json", tiny_coco / "train2014")
    rates = firing_rates(lvlm, *given, 0.5, tmp_path / "out", batch_size=4)
    crosses = lvlm.model.config.get_text_config().cross_attention_layers
    assert np.array_equal(np.isnan(rates).all(1), [layer in crosses for layer in range(lvlm.n_layers)])
    assert np.isnan(rates).any() and not np.isnan(rates).all()
    assert (
        json.loads((tmp_path / "out" / "firing_rates.json").read_text())["rates"][crosses[0]] == [None] * lvlm.n_heads
    )
    assert all(head.layer not in crosses for head in matched_heads(rates, [Head(0, 0)], 1))


def test_captions_without_an_image_are_refused(lvlm, given, tmp_path, monkeypatch):
    monkeypatch.setattr(firing, "fired_counts", lambda *args: np.zeros((len(args[-1]), 2), dtype=np.int64))
    with pytest.raises(ValueError, match="no token of them comes after an image"):
        firing_rates(lvlm, *given, THRESHOLD, tmp_path, batch_size=4)
    (tmp_path / "empty.json").write_text(json.dumps({"sentences": []}))
    with pytest.raises(ValueError, match=r"empty\.json: no captions"):
        firing_rates(lvlm, tmp_path / "empty.json", given[1], THRESHOLD, tmp_path / "out", batch_size=4)


def test_captions_that_are_not_there_are_named_by_their_flag(tmp_path):
    given = {"choosing_captions": tmp_path / "none.json", "choosing_images": tmp_path, "out": tmp_path}
    draw = rate_controls(Namespace(**given, batch_size=1), None)
    with pytest.raises(
        FileNotFoundError, match=r"--choosing-captions .*none\.json: no such file; sh bash_scripts/attr"
    ):
        draw([Head(0, 0)], THRESHOLD, [1])
