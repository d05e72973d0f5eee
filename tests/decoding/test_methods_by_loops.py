"""Methods of others step by step: fused, cached and batched against one row, whole passes, eager maps and loops."""

import json

import pytest
import torch

from llava_hh.attention.hooks import intervene
from llava_hh.attention.interventions import ScaleHeads, ZeroHeads
from llava_hh.attention.modules import attention_modules
from llava_hh.baselines.ilvad import AmplifyEvidence
from llava_hh.baselines.stepping import Stepper, end_ids
from llava_hh.baselines.vhr import ReinforceVisionHeads
from llava_hh.decoding.making import Material
from llava_hh.decoding.reading import method_of
from llava_hh.heads import Head, by_layer
from llava_hh.models.lvlm import load_lvlm
from tests.support.eager_edits import eager_by, eager_edits
from tests.support.questions import IMAGES, QUESTIONS
from tests.support.slow_ilvad import Looking, Replay, evidence, first_pass
from tests.support.tiny_checkpoint import save_tiny_checkpoint
from tests.support.tiny_newer import save_tiny_family

N_STEPS = 5
TEXTS = [
    "devils:alpha=2",
    "vaf:layers=1-2,image=3,before=0.3",
    "vaf_unsigned:layers=1-2,image=2,before=0.5",
    "spin:kept=0.5",
    "vhr:alpha=3",
    "eah_paper:threshold=0.002",
    "eah_repo:threshold=0.001",
    "var:layers=1-2,kept=0.2,tau=27,most_sunk=0.8,least_mass=0.05",
    "ilvad:layers=0-2,alpha=2,jump=1.1",
    "ilvad_pope:alpha=3,beta=0.7,jump=1.3",
    "allpath:n_low=192,n_high=128,n_image=128",
]


@pytest.fixture(scope="module", params=["mha llava", "gqa llava", "qwen2_5_vl"])
def lvlm(request, tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("family") / request.param
    if request.param == "gqa llava":
        folder = tiny_checkpoint
    elif request.param == "mha llava":
        save_tiny_checkpoint(folder, n_kv=4)
    else:
        save_tiny_family(request.param, folder)
    return load_lvlm(folder)


@pytest.fixture
def material(lvlm, tmp_path):
    lists = {"highest": [[1, 0], [2, 3], [0, 1]], "lowest": [[3, 1], [1, 2], [2, 0]]}
    looking = {"highest": [[2, 3], [0, 2]], "lowest": [[0, 0]]}
    tasks = dict.fromkeys(("chair", "pope"), {"text": lists, "image": looking})
    (tmp_path / "allpath.json").write_text(json.dumps(tasks))
    return Material(lvlm)


def edits_of(text, material, tmp_path):
    if text.startswith("allpath"):
        text += f',heads="{tmp_path}/allpath.json"'
    return method_of(text, material).method.interventions


def whole_pass(lvlm, batch, tokens):
    """Logits (vocabulary,) after one row and the tokens so far, uncached; -inf where the model says nothing."""
    inputs = dict(batch.inputs)
    ids = torch.cat([inputs["input_ids"], torch.tensor([tokens], dtype=torch.long)], 1)
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "mm_token_type_ids" in inputs:
        types = inputs["mm_token_type_ids"]
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(types, (0, len(tokens)))
    logits = lvlm.model(**inputs, use_cache=False).logits[0, -1]
    logits[lvlm.model.generation_config.suppress_tokens or []] = -torch.inf
    return logits


def slow_vhr(lvlm, batch, edit):
    """Layer by layer: two whole passes with the heads chosen so far scaled, and the outputs that enter o_proj."""
    factors = dict.fromkeys(edit.heads, 1.0)
    shown = batch.inputs["input_ids"][0]
    blind = {"input_ids": shown[~batch.image_mask[0]][None]}
    for layer, heads in by_layer(edit.heads).items():
        scaled = [ScaleHeads(tuple(factors), tuple(factors.values()))]
        outputs = []
        for inputs in (batch.inputs, blind):
            kept = []
            o_proj = attention_modules(lvlm.model)[layer].o_proj
            hook = o_proj.register_forward_pre_hook(lambda _, args, kept=kept: kept.append(args[0][0, -1].clone()))
            with eager_edits(lvlm.model, torch.zeros_like(inputs["input_ids"], dtype=torch.bool), scaled):
                lvlm.model(**inputs, use_cache=False)
            hook.remove()
            outputs.append(kept[0].view(lvlm.n_heads, -1))
        away = [(a - b).square().sum().sqrt().item() for a, b in zip(*outputs, strict=True)]
        alone = [b.square().sum().item() for b in outputs[1]]
        limits = []
        for values in (away, alone):
            mean = sum(values) / len(values)
            spread = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
            limits.append(mean + spread)
        away = [0.0 if a > limits[0] and t > limits[1] else a for a, t in zip(away, alone, strict=True)]
        middle = sorted(away)[(len(away) - 1) // 2]
        for head in heads:
            factors[Head(layer, head)] = edit.alpha if away[head] > middle else 1.0
    return factors


def slow_ilvad(lvlm, batch, edit):
    image = batch.image_mask[0].nonzero().flatten().tolist()
    looking = Looking(image, lvlm.n_layers)
    with eager_by(lvlm.model, looking):
        seen = first_pass(lambda tokens: whole_pass(lvlm, batch, tokens), looking, 10, end_ids(lvlm.model))
    log_map = {key: edit.alpha * value for key, value in zip(image, evidence(seen, edit.jump), strict=True)}
    layers = sorted({head.layer for head in edit.heads})
    return Replay(image, log_map, edit.beta, layers, batch.image_mask.shape[1])


@torch.no_grad()
@pytest.mark.parametrize("text", TEXTS)
def test_steps_equal_whole_passes_over_eager_maps(lvlm, material, tmp_path, text):
    edits = edits_of(text, material, tmp_path)
    changed = 0.0
    for image, question in zip(IMAGES[:2], QUESTIONS, strict=False):
        batch = lvlm.encode([image], [question])
        prepared = [edit.prepared(lvlm, batch) for edit in edits]
        plain, stepper = whole_pass(lvlm, batch, []), Stepper(lvlm.model, batch.inputs)
        slow = None
        if isinstance(edits[0], ReinforceVisionHeads):
            factors = slow_vhr(lvlm, batch, edits[0])
            assert dict(zip(prepared[0].heads, prepared[0].factors[0], strict=True)) == factors
        elif isinstance(edits[0], AmplifyEvidence):
            slow = slow_ilvad(lvlm, batch, edits[0])
            expected = [slow.log_map.get(key, 0.0) for key in range(batch.image_mask.shape[1])]
            torch.testing.assert_close(prepared[0].log_map[0], torch.tensor(expected), atol=1e-4, rtol=0)
            assert prepared[0].log_map.any()
        tokens = []
        with intervene(lvlm.model, batch.image_mask, prepared):
            for _ in range(N_STEPS):
                fast = stepper.step(torch.tensor(tokens[-1:]) if tokens else None)[0]
                start = [batch.image_mask.shape[1]]
                eager = (
                    eager_by(lvlm.model, slow) if slow else eager_edits(lvlm.model, batch.image_mask, prepared, start)
                )
                with eager:
                    expected = whole_pass(lvlm, batch, tokens)
                said = ~expected.isinf()
                torch.testing.assert_close(fast[said], expected[said], atol=1e-4, rtol=1e-4)
                if not tokens:
                    changed = max(changed, (fast - plain)[said].abs().max().item())
                tokens.append(fast.argmax().item())
    assert changed > 0.01


def test_scale_0_is_removal(lvlm, material, tmp_path):
    heads = tuple(Head(*pair) for pair in ([1, 2], [2, 0], [3, 1]))
    batch = lvlm.encode(IMAGES, QUESTIONS)
    text = f'allpath:n_low=192,n_high=0,n_image=0,heads="{tmp_path}/allpath.json"'
    method = method_of(text, material).method
    assert method.interventions == (ScaleHeads(heads, (0.0, 0.0, 0.0)),)
    removed = method_of('removal:heads="L1H2,L2H0,L3H1"', Material(lvlm)).method
    assert removed.interventions == (ZeroHeads(heads),)
    assert method.answer(lvlm, batch, 6).answers == removed.answer(lvlm, batch, 6).answers
