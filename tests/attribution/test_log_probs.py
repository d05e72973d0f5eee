import pytest
import torch
from torch.testing import assert_close
from transformers import Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM, LlamaForCausalLM

from llava_hh.attention.modules import attention_modules
from llava_hh.attribution import sweep as module
from llava_hh.attribution.sweep import log_probs_by_blocks, read_prefix, target_log_probs
from tests.support.tiny import VOCABULARY, text_settings, tiny_llama

LOGITS_CHANGED = {
    "scaled": lambda: GraniteForCausalLM(GraniteConfig(**text_settings(2), logits_scaling=3.0)),
    "capped": lambda: Gemma2ForCausalLM(Gemma2Config(**text_settings(2), head_dim=8, final_logit_softcapping=5.0)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block", [1, 7, 64, 4096])
def test_blocks_add_up_to_the_whole_vocabulary(dtype, block, monkeypatch):
    """Logits of up to 1,000, in which a block's largest lies far above that of the blocks before it, and below."""
    monkeypatch.setattr(module, "CPU_BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    rows, weight = torch.randn(9, 16, generator=generator), torch.randn(130, 16, generator=generator)
    rows, weight = rows.to(dtype), (weight * torch.linspace(0.1, 60, 130)[torch.randperm(130)][:, None]).to(dtype)
    targets = torch.randint(130, (9,), generator=generator)
    logits = (rows @ weight.T).double()
    expected = [
        row[target] - (row - row.max()).exp().sum().log() - row.max()
        for row, target in zip(logits, targets, strict=True)
    ]
    found = log_probs_by_blocks(rows, weight, targets)
    assert_close(found.double(), torch.stack(expected), atol=1e-3, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", [*LOGITS_CHANGED, "plain"])
def test_what_a_model_does_to_its_logits_counts(kind, monkeypatch):
    torch.manual_seed(1)
    model = (tiny_llama() if kind == "plain" else LOGITS_CHANGED[kind]()).eval()
    assert isinstance(model, LlamaForCausalLM) == (kind == "plain")
    ids, used = torch.arange(5, 17)[None], []
    monkeypatch.setattr(module, "log_probs_by_blocks", lambda *args: used.append(1) or log_probs_by_blocks(*args))
    prefix = read_prefix(model, attention_modules(model), {"input_ids": ids})
    hooked = {}
    model.get_decoder().norm.register_forward_pre_hook(lambda _, args: hooked.update(last=args[0]))
    logits = model(ids).logits[0]
    hidden = hooked["last"][0][:, None]  # row query d_model
    targets = torch.arange(12) % VOCABULARY
    found = target_log_probs(model, prefix, hidden, targets)
    assert_close(found, logits.log_softmax(-1)[range(12), targets], atol=1e-5, rtol=0)
    assert bool(used) == (kind == "plain")
