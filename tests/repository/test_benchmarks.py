"""benchmarks/: the arithmetic of plan.py against torch's own count, ratios by hand, scripts at small sizes."""

import sys
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from llava_hh.files.files import read_json
from tests.support.repository import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import attribution
import gpu
import measuring
import peers
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


SMALL = ["--cases", "llama", "--tokens", "9", "--targets", "2", "--layers", "2", "--heads", "4", "--width", "32"]


def test_peers_that_are_not_installed_are_left_out_with_the_reason(monkeypatch, tmp_path, capsys):
    for name in peers.PEERS:
        monkeypatch.setitem(sys.modules, name, None)
    peers.main([*SMALL, "--json", str(tmp_path / "peers.json")])
    shown, written = capsys.readouterr().out, read_json(tmp_path / "peers.json")
    assert [row["way"] for row in written["rows"]] == ["llava_hh"] and written["rows"][0]["evaluations"] == 16
    assert written["skipped"].keys() == peers.PEERS.keys()
    assert all(f"{name}: left out, not installed, or another version" in shown for name in peers.PEERS)


@pytest.mark.parametrize("error", [0.0, 2e-4])
def test_a_peer_that_differs_ends_in_an_error(error, monkeypatch, capsys):
    def by_loop(case: attribution.Case, folder: Path) -> peers.Influence:
        found = torch.empty(len(case.positions), len(case.heads()) // case.n_heads, case.n_heads)
        clean = torch.tensor(
            [
                case.model(ids[:, : position + 1]).logits[0, -1].log_softmax(-1)[target].item()
                for ids in case.inputs.values()
                for position, target in zip(case.positions, case.target_ids, strict=True)
            ]
        )

        def influence(layers: Iterable[int]) -> torch.Tensor:
            attribution.loop(case, case.heads(), found)
            return (clean[:, None, None] - found.log() + error)[:, list(layers)]

        return influence

    monkeypatch.setattr(peers, "PEERS", {"loop": by_loop})
    with pytest.raises(SystemExit, match="loop differs by 2.0e-04") if error else nullcontext():
        peers.main([*SMALL, "--repeats", "1"])
    assert "| loop | 16 |" in capsys.readouterr().out


@pytest.mark.parametrize("name", peers.PEERS)
def test_an_installed_peer_finds_the_same(name, monkeypatch, tmp_path):
    pytest.importorskip(name, reason="the extra `peers` is not installed")
    monkeypatch.setattr(peers, "PEERS", {name: peers.PEERS[name]})
    peers.main([*SMALL, "--repeats", "1", "--json", str(tmp_path / "peers.json")])
    rows = {row["way"]: row for row in read_json(tmp_path / "peers.json")["rows"]}
    assert rows[name]["max_difference"] < 1e-5 < rows[name]["largest_influence"]


def test_what_is_measured_of_a_gpu_at_a_small_size(tmp_path, capsys):
    flags = ["--size", "tiny", "--targets", "2", "--passes", "3", "--batch-sizes", "1", "2", "--repeats", "1"]
    gpu.main([*flags, "--json", str(tmp_path / "gpu.json")])
    shown, found = capsys.readouterr().out, read_json(tmp_path / "gpu.json")
    attributed, size = found["attribution"], gpu.SIZES["tiny"]
    forward = 36 * size.decoder.token_flop(3, 18, with_vocabulary=False)
    flop = attributed["sweep_share"] * found["plain_tflops"] * plan.TERA * attributed["sweep_seconds"][0]
    assert flop == pytest.approx(forward + 2 * size.decoder.sweep_flop(36))
    assert attributed["loop_seconds"] == [pytest.approx(24 * attributed["pass_seconds"][0])]
    assert [row["rows"] for row in found["decoding"]] == [1, 2] and found["types"]["largest_difference"] > 0
    assert "| attribution, one pass per head |" in found["plan"] and found["plan"] in shown
    if not torch.cuda.is_available():
        assert found["recording_mib"] is None and "left out on a CPU" in shown


def test_what_plan_is_given_are_the_measured_rates():
    attributed = {"pass_seconds": [0.5], "sweep_share": 0.25}
    found = gpu.planned(gpu.SIZES["7b"], 1e14, attributed, step_seconds=0.02)
    [loop] = [line.split(" | ") for line in found.splitlines() if "one pass per head" in line]
    forward = 740 * gpu.SIZES["7b"].decoder.token_flop(32, 370, with_vocabulary=False) / 1e14
    assert loop[1] == f"{1000 * (forward + 6 * 32 * 32 * 0.5):,.0f} ms"


def test_a_gpu_without_room_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**34, 2**35))
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "32 GiB are needed, 16 are free; choose --size tiny or 1b" in capsys.readouterr().err
