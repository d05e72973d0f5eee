"""A method step by step, fused and cached, against one row by whole passes over eager maps and loops."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from llava_hh.attention.hooks import intervene
from llava_hh.attention.interventions import Intervention, ScaleHeads
from llava_hh.attention.modules import attention_modules
from llava_hh.baselines.ilvad import AmplifyEvidence
from llava_hh.baselines.stepping import Stepper, end_ids
from llava_hh.baselines.vhr import ReinforceVisionHeads
from llava_hh.heads import Head, by_layer
from llava_hh.models.lvlm import Batch, Lvlm
from tests.support.eager_edits import eager_by, eager_edits
from tests.support.slow_ilvad import Looking, Replay, evidence, first_pass


@torch.no_grad()
def largest_change(
    lvlm: Lvlm,
    edits: Sequence[Intervention],
    images: Sequence[Image.Image],
    questions: Sequence[str],
    n_steps: int,
    atol: float = 1e-4,
) -> float:
    """Assert that each step's logits are those of the slow computation; how far the first are from greedy's."""
    changed = 0.0
    for image, question in zip(images, questions, strict=True):
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
        tokens: list[int] = []
        with intervene(lvlm.model, batch.image_mask, prepared):
            for _ in range(n_steps):
                fast = stepper.step(torch.tensor(tokens[-1:]) if tokens else None)[0]
                asked = batch.image_mask, prepared, [batch.image_mask.shape[1]]
                with eager_by(lvlm.model, slow) if slow else eager_edits(lvlm.model, *asked):
                    expected = whole_pass(lvlm, batch, tokens)
                said = ~expected.isinf()
                torch.testing.assert_close(fast[said], expected[said], atol=atol, rtol=1e-4)
                if not tokens:
                    changed = max(changed, (fast - plain)[said].abs().max().item())
                tokens.append(fast.argmax().item())
    return changed


def whole_pass(lvlm: Lvlm, batch: Batch, tokens: Sequence[int]) -> Tensor:
    """Logits (vocabulary,) after one row and the tokens so far, uncached; -inf where the model says nothing."""
    inputs = dict(batch.inputs)
    ids = torch.cat([inputs["input_ids"], torch.tensor([list(tokens)], dtype=torch.long)], 1)
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "mm_token_type_ids" in inputs:
        types = inputs["mm_token_type_ids"]
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(types, (0, len(tokens)))
    logits = lvlm.model(**inputs, use_cache=False).logits[0, -1]
    logits[lvlm.model.generation_config.suppress_tokens or []] = -torch.inf
    return logits


def slow_vhr(lvlm: Lvlm, batch: Batch, edit: ReinforceVisionHeads) -> dict[Head, float]:
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


def slow_ilvad(lvlm: Lvlm, batch: Batch, edit: AmplifyEvidence) -> Replay:
    image = batch.image_mask[0].nonzero().flatten().tolist()
    looking = Looking(image, lvlm.n_layers)
    with eager_by(lvlm.model, looking):
        seen = first_pass(lambda tokens: whole_pass(lvlm, batch, tokens), looking, 10, end_ids(lvlm.model))
    log_map = {key: edit.alpha * value for key, value in zip(image, evidence(seen, edit.jump), strict=True)}
    layers = sorted({head.layer for head in edit.heads})
    return Replay(image, log_map, edit.beta, layers, batch.image_mask.shape[1])
