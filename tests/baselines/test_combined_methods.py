"""Interventions under decoders: against eager maps edited by loops, whole uncached forwards of one row at a time."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random

import pytest
import torch
from torch.testing import assert_close
from transformers import PreTrainedModel

from llava_hh.attention.hooks import intervene
from llava_hh.attention.interventions import BoostImageScores, DeactivateText, Intervention, ScaleAttention
from llava_hh.baselines import dola, greedy, halc, opera, pai, vcd
from llava_hh.baselines.dola import DolaSettings
from llava_hh.baselines.greedy import GreedySettings
from llava_hh.baselines.pai import PaiSettings
from llava_hh.baselines.stepping import Stepper
from llava_hh.baselines.vcd import VcdSettings
from llava_hh.decoding.making import Material
from llava_hh.decoding.method import CannotDecode, Decoding, Greedy
from llava_hh.decoding.reading import method_of as make
from llava_hh.decoding.registry import DECODERS, register_decoder
from llava_hh.heads import Head
from llava_hh.models.lvlm import DESCRIBE, load_lvlm
from tests.support.decoding import (
    as_batch,
    as_lvlm,
    double,
    eight_rows,
    ids_of,
    last_logits,
    single_rows,
    slow_decode,
)
from tests.support.eager_edits import eager_edits
from tests.support.slow_decoders import slow_noise, slow_step, without_image
from tests.support.slow_halc import N_TOKENS as HALC_TOKENS
from tests.support.slow_halc import SETTINGS as HALC
from tests.support.slow_halc import Detector, photo, slow_halc, use
from tests.support.tiny import N_HEADS, TinyBatch, decode_steps

N_TOKENS = 4
HEADS = (Head(1, 0), Head(2, 3), Head(3, 1))
ADHH = DeactivateText(HEADS, 0.3)
VCD = VcdSettings(do_sample=False, noise_step=900)


@contextmanager
def edited(how: str, model: PreTrainedModel, alone: TinyBatch, edits: list[Intervention]) -> Iterator[None]:
    """One row under interventions: by `intervene`, or by loops over eager maps."""
    with {"intervene": intervene, "eager": eager_edits}[how](model, alone.image_mask, edits):
        yield


def answered(method: Decoding | Greedy, model: PreTrainedModel, batch: TinyBatch) -> list[list[int]]:
    found = method.answer(as_lvlm(model), as_batch(batch), N_TOKENS)
    edits = [each for each in method.interventions if isinstance(each, DeactivateText)]
    assert bool(found.fired) == bool(edits)
    return [answer.token_ids for answer in found.answers]


def rows_alone(method: Decoding, model: PreTrainedModel, batch: TinyBatch) -> list[list[int]]:
    lvlm = as_lvlm(model)
    return [
        method.answer(lvlm, as_batch(alone, own), N_TOKENS).answers[0].token_ids for alone, own in single_rows(batch)
    ]


@pytest.mark.parametrize("how", ["intervene", "eager"])
@pytest.mark.parametrize("on", ["all", "clean"])
def test_vcd_and_adhh(llava, on, how):
    """Both images' forwards are edited, or that of the clean image alone."""
    model, batch = double(llava), eight_rows(torch.float64)
    method = Decoding("vcd", vcd.decode, VCD, True, (ADHH,), on)

    def choose(row, alone, answer):
        with edited(how, model, alone, [ADHH]):
            z = last_logits(model, alone, answer).tolist()
        other = z
        if "pixel_values" in alone.inputs:
            noised = slow_noise(alone.inputs["pixel_values"], ids_of(8)[row], VCD)
            with edited(how, model, alone, [ADHH] if on == "all" else []):
                other = last_logits(model, alone, answer, pixel_values=noised).tolist()
        plausible = [w for w in range(len(z)) if z[w] >= math.log(VCD.beta) + max(z)]
        return max(plausible, key=lambda w: (1 + VCD.alpha) * z[w] - VCD.alpha * other[w])

    rows = answered(method, model, batch)
    assert rows == slow_decode(model, batch, N_TOKENS, choose)
    assert rows == rows_alone(method, model, batch)
    assert rows != answered(replace(method, interventions=()), model, batch)
    assert rows != answered(replace(method, on={"all": "clean", "clean": "all"}[on]), model, batch)


@pytest.mark.parametrize("how", ["intervene", "eager"])
@pytest.mark.parametrize("on", ["all", "clean"])
def test_guidance_and_adhh(llava, on, how):
    """PAI without its boost; the prompt without an image has nothing after one, so it is never edited."""
    model, batch = double(llava), eight_rows(torch.float64)
    settings = PaiSettings(0, 2.5, beta=0.02)
    method = Decoding("pai", pai.decode, settings, True, (ADHH,), on)

    def choose(row, alone, answer):
        with edited(how, model, alone, [ADHH]):
            shown = last_logits(model, alone, answer).log_softmax(-1).tolist()
        blind = shown
        if alone.image_mask.any():
            blind = last_logits(model, without_image(alone), answer).log_softmax(-1).tolist()
        kept = [w for w, value in enumerate(shown) if value >= math.log(settings.beta) + max(shown)]
        return max(kept, key=lambda w: settings.gamma * (shown[w] - blind[w]) + blind[w])

    rows = answered(method, model, batch)
    assert rows == slow_decode(model, batch, N_TOKENS, choose)
    assert rows == rows_alone(method, model, batch)
    assert rows != answered(replace(method, interventions=()), model, batch)


@torch.no_grad()
def test_boost_guidance_and_adhh(llava, monkeypatch):
    """PAI's boost looks at the last row of each forward, so each row is decoded by cached steps under eager maps."""
    batch = eight_rows()
    boosted = [Head(layer, head) for layer in (1, 2) for head in range(N_HEADS)]
    method = Decoding("pai", pai.decode, PaiSettings(2.0, 2.5, 1, 3, beta=0.02), True, (ADHH,))
    seen = []
    monkeypatch.setattr(
        Stepper, "step", lambda self, tokens=None, real=Stepper.step: seen.append(real(self, tokens)) or seen[-1]
    )
    answers = torch.tensor(answered(method, llava, batch))
    fast = torch.stack(seen, 1)  # row and twin, step, vocabulary
    assert answers.tolist() != answered(replace(method, interventions=()), llava, batch)
    for row, (alone, _) in enumerate(single_rows(batch)):
        tokens = answers[row : row + 1]
        with eager_edits(llava, alone.image_mask, [BoostImageScores(boosted, 2.0), ADHH]):
            shown = decode_steps(llava, alone, N_TOKENS, tokens=tokens)[0]
        blind = decode_steps(llava, without_image(alone), N_TOKENS, tokens=tokens)[0]
        assert_close(fast[2 * row], shown, atol=1e-4, rtol=0)
        assert_close(fast[2 * row + 1], blind, atol=1e-4, rtol=0)


@pytest.mark.parametrize("how", ["intervene", "eager"])
@pytest.mark.parametrize("edit", [ScaleAttention(HEADS, 0.2), ScaleAttention(HEADS, 3.0, "image"), ADHH])
def test_dola_and_an_intervention(llava, edit, how):
    """Both the last layer and the earlier ones are those of the edited forward."""
    model, batch = double(llava), eight_rows(torch.float64)
    method = Decoding("dola", dola.decode, DolaSettings((0, 1, 2, 3), 0.02), interventions=(edit,))

    def choose(row, alone, answer):
        with edited(how, model, alone, [edit]):
            scores, _ = slow_step(model, alone, answer, method.settings, (0, 1, 2, 3))
        return max(scores, key=scores.get)

    rows = answered(method, model, batch)
    assert rows == slow_decode(model, batch, N_TOKENS, choose)
    assert rows == rows_alone(method, model, batch)
    assert rows != answered(replace(method, interventions=()), model, batch)


@pytest.mark.parametrize("on", ["all", "clean"])
def test_halc_that_checks_nothing_is_dola_under_the_same_edits(tiny_checkpoint, on, monkeypatch):
    use(monkeypatch, detector := Detector(1))
    lvlm = load_lvlm(tiny_checkpoint)
    images, prompts = [photo(0), None, photo(1), photo(2)], [DESCRIBE, "describe a dog", "describe the cat", "a dog"]
    batch = lvlm.encode(images, prompts, sample_ids=ids_of(4))
    assert not batch.inputs["attention_mask"].all()  # padded
    settings = replace(HALC, skip_rate=1)
    found = Decoding("halc", halc.decode, settings, True, (ADHH,), on).answer(lvlm, batch, 10)
    base = Decoding("dola", dola.decode, HALC.base, interventions=(ADHH,))
    expected = base.answer(lvlm, batch, 10)
    assert found.answers == expected.answers
    assert sum(each.fired for each in expected.fired.values()) > 0
    assert not found.fired  # HALC goes over a caption several times, so how often heads fired on it is not said
    assert found.answers != replace(base, interventions=()).answer(lvlm, batch, 10).answers
    assert not detector.asked


@pytest.mark.parametrize("on", ["all", "clean"])
def test_halc_and_adhh(tiny_checkpoint, on, monkeypatch):
    """The windows of a check are edited as well, or the whole image's forwards alone."""
    use(monkeypatch, Detector())
    lvlm, edit = load_lvlm(tiny_checkpoint), replace(ADHH, threshold=0.1)
    images, prompts = [photo(seed) for seed in range(6)], [DESCRIBE, "describe the cat", "a dog"] * 2
    seen = Counter()

    def open_block(batch, is_clean):
        edits = [edit] if is_clean or on == "all" else []
        return intervene(lvlm.model, batch.image_mask, edits, batch.response_start)

    expected = [
        slow_halc(lvlm, image, prompt, HALC, Random(f"42 sample {row}"), seen, open_block)
        for row, (image, prompt) in enumerate(zip(images, prompts, strict=True))
    ]
    method = Decoding("halc", halc.decode, HALC, True, (edit,), on)
    batch = lvlm.encode(images, prompts, sample_ids=ids_of(6))
    found = method.answer(lvlm, batch, HALC_TOKENS).answers
    assert [answer.token_ids for answer in found] == expected
    assert min(seen["replaced"], seen["kept"]) > 0, seen
    assert found != replace(method, interventions=()).answer(lvlm, batch, HALC_TOKENS).answers


def test_opera_under_an_intervention_is_refused_in_one_line(llava):
    for edit in (ADHH, ScaleAttention(HEADS, 0.2)):
        method = Decoding("opera", opera.decode, opera.PRESETS["opera"], interventions=(edit,))
        with pytest.raises(CannotDecode, match="OPERA takes no intervention") as error:
            method.answer(as_lvlm(llava), as_batch(eight_rows()), N_TOKENS)
        assert "\n" not in str(error.value)
    plain = replace(method, interventions=())
    assert len(answered(plain, llava, eight_rows())) == 8  # nothing is left open


@pytest.fixture
def plug_in() -> Iterator[Callable]:
    """Registers decoders, and takes them out again."""
    names = []

    def register(name: str, *given: object) -> None:
        register_decoder(name, *given)
        names.append(name)

    yield register
    for name in names:
        del DECODERS[name]


def test_a_decoder_of_others_has_the_interventions_on_all_its_forwards(tiny_checkpoint, plug_in):
    plug_in("steps", lambda lvlm, batch, settings, n: greedy.decode(lvlm, batch, settings, n), GreedySettings())
    plug_in("twins", lambda lvlm, batch, settings, n: vcd.decode(lvlm, batch, settings, n), VCD)
    material = Material(load_lvlm(tiny_checkpoint))
    lvlm = material.lvlm
    prompts = [DESCRIBE, "describe a dog", "a cat"]
    batch = lvlm.encode([photo(0), None, photo(1)], prompts, sample_ids=ids_of(3))
    adhh = 'adhh:heads="L1H0,L2H3,L3H1",threshold=0.1'
    for kind, expected in (
        ("steps", Greedy((replace(ADHH, threshold=0.1),))),
        ("twins", Decoding("vcd", vcd.decode, VCD, True, (replace(ADHH, threshold=0.1),))),
    ):
        method = make(f"{kind}+{adhh}", material).method
        answers, fired, _ = method.answer(lvlm, batch, 8)
        assert (answers, fired) == expected.answer(lvlm, batch, 8)[:2]
        assert answers != make(kind, material).method.answer(lvlm, batch, 8).answers
        assert method.name.startswith(f"{kind}+adhh-top_k=3-threshold=0.1-") or kind == "twins"
