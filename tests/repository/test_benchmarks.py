"""The arithmetic of benchmarks/plan.py against torch's own count of a forward pass; ratios of turns by hand."""

import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support.repository import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import attribution
import measuring
import plan
import sources

DECODER = plan.Decoder(layers=3, heads=4, width=32, key_width=16, mlp_width=48, vocabulary=50)


def test_a_token_costs_what_torch_counts():
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).eval()
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model(torch.arange(10)[None])
    matrix_sizes = sum(weight.numel() for weight in model.parameters() if weight.ndim == 2)
    rotary = counted.get_total_flops() - 10 * DECODER.token_flop(3, n_keys=10, with_vocabulary=True)
    assert 0 <= rotary <= 2 * 10 * config.head_dim  # the positions' angles are a small product too
    assert DECODER.bytes == 2 * (matrix_sizes - 50 * 32)  # the embedding is not read as a matrix


def test_the_sweep_is_the_sum_over_heads():
    slow = sum(DECODER.token_flop(3 - layer, 7, with_vocabulary=True) for layer in range(3) for _ in range(4))
    assert DECODER.sweep_flop(7) == pytest.approx(slow)


def test_the_plan_is_proportional_and_shares_blocks(capsys):
    plan.main(["--captions", "3000", "--gpus", "8"])
    [sweep] = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "the sweep" in line]
    plan.main(["--captions", "160", "--gpus", "8", "--batch-size", "20"])
    [few] = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "the sweep" in line]
    assert sweep[1] == few[1] and few[2].endswith(" s") and sweep[2].endswith("min")
    one_gpu, eight = float(few[2].split()[0]), float(few[3].split()[0])
    assert one_gpu / eight == pytest.approx(8, abs=0.6)  # a block each


def test_ratios_are_of_each_turn():
    assert measuring.ratio([2, 3, 8], [1, 1, 2]) == {"median": 3, "low": 2, "high": 4, "turns": 3}
    assert measuring.show_ratio(measuring.ratio([2, 3, 8], [1, 1, 2])) == "3.00 (2.00 to 4.00)"
    assert measuring.show_ratio(measuring.ratio([1], [4])) == "0.25"


def test_times_by_source_stand_beside_those_of_the_plain_sweep(mini_path, capsys):
    case = attribution.checkpoint_case(mini_path, "float32")
    assert len(case.positions) == 6 and case.image_mask.any() and case.positions[0] >= case.answer_start - 1
    sources.main(["--model", str(mini_path), "--targets", "1", "--repeats", "1"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| 1 ")]
    plain, by_source, direct = (float(row[3].rstrip(" |")) for row in rows)
    assert plain == 1 and min(by_source, direct) > 0
