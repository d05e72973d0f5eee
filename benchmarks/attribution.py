"""Time of zeroing every head for every target: our batched sweep against a loop of cached forward passes.

Both are measured in the same run, on the same sample. The loop is what one would write without the sweep: per target a
prefill into a KV cache, then one single-token pass per head under a hook, dropping the added token after each.
"""

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from llava_hh.attention import attention_modules
from llava_hh.attribution.ablation import Ablated, ablate_every_head
from llava_hh.attribution.targets import find_targets
from llava_hh.metrics.chair import find_objects
from llava_hh.mini.world import caption, render, sample_scene
from llava_hh.models.lvlm import DESCRIBE, Loading, load_lvlm

REPO = Path(__file__).resolve().parents[1]
MINI = REPO / "checkpoints" / "mini" / "model"
TARGETS = 6  # words to explain in one caption
SPREAD = 0.05  # of random weights: wide enough for heads to matter


@dataclass
class Case:
    name: str
    model: PreTrainedModel
    inputs: dict[str, Tensor]
    positions: list[int]

    @torch.no_grad()
    def __post_init__(self) -> None:
        # the likeliest tokens: a random token's probability is too small to tell two methods apart
        self.target_ids = self.model(**self.inputs).logits[0, self.positions].argmax(-1).tolist()


def llama_case() -> Case:
    """A random Llama: 16 layers of 16 heads, d_model 1024, 600 tokens before the first of 4 targets."""
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=1024,
        intermediate_size=2752,
        num_hidden_layers=16,
        num_attention_heads=16,
        max_position_embeddings=1024,
        initializer_range=SPREAD,
    )
    ids = torch.randint(3, 32000, (1, 640))
    return Case(
        "random Llama, 16 x 16 heads", LlamaForCausalLM(config).eval(), {"input_ids": ids}, [600, 612, 625, 638]
    )


def checkpoint_case(path: Path) -> Case:
    """A drawn scene and its caption on a real model; the first object words are the targets."""
    lvlm, rng = load_lvlm(path, Loading("float32")), random.Random(0)
    scene = sample_scene(rng, together=1.0)
    while len(scene.shown) < TARGETS:
        scene = sample_scene(rng, together=1.0)
    text = caption(scene, rng)
    answer = lvlm.tokenizer(text, add_special_tokens=False).input_ids
    batch = lvlm.encode([render(scene, rng)[0]], [DESCRIBE], [answer])
    mentions = [asdict(mention) | {"hallucinated": mention.node not in scene.shown} for mention in find_objects(text)]
    targets = find_targets(lvlm.tokenizer, answer, text, mentions)[:TARGETS]
    name = str(path.relative_to(REPO) if path.is_relative_to(REPO) else path)
    return Case(name, lvlm.model, batch.inputs, [batch.response_start[0] + target.index - 1 for target in targets])


@torch.no_grad()
def prefill(case: Case, position: int) -> DynamicCache:
    """The cache of all tokens before `position`."""
    cut = {name: value[:, :position] for name, value in case.inputs.items() if name != "pixel_values"}
    pixels = {name: value for name, value in case.inputs.items() if name == "pixel_values"}
    cache = DynamicCache()
    case.model(**cut, **pixels, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


@torch.no_grad()
def ablate_step(case: Case, cache: DynamicCache, position: int, target: int, attention: nn.Module, head: int) -> float:
    """One cached forward pass of the token at `position` without one head: the probability of `target`."""
    width = attention.o_proj.in_features // n_heads(case)

    def zero(_, args):
        z = args[0].clone()
        z[..., head * width : (head + 1) * width] = 0
        return (z,)

    handle = attention.o_proj.register_forward_pre_hook(zero)
    try:
        token = case.inputs["input_ids"][:, position : position + 1]
        logits = case.model(input_ids=token, past_key_values=cache, use_cache=True).logits
    finally:
        handle.remove()
    cache.crop(-1)
    return float(logits[0, -1].float().softmax(-1)[target])


def time_loop(case: Case, sampled: set[tuple[int, int]]) -> tuple[float, float, Tensor]:
    """Seconds of the prefills, seconds of the steps, and probabilities (target, layer, head), NaN where not sampled."""
    attentions = attention_modules(case.model)
    probs = torch.full((len(case.positions), len(attentions), n_heads(case)), float("nan"))
    prefilling = stepping = 0.0
    for row, (position, target) in enumerate(zip(case.positions, case.target_ids, strict=True)):
        seconds, cache = timed(lambda position=position: prefill(case, position))
        prefilling += seconds
        began = clock()
        for layer, head in sorted(sampled):
            probs[row, layer, head] = ablate_step(case, cache, position, target, attentions[layer], head)
        stepping += clock() - began
    return prefilling, stepping, probs


def measure(case: Case, repeats: int, loop_heads: int | None) -> dict:
    """One row of the table; our time is the median of `repeats` runs after one that warms up."""
    everything = [(layer, head) for layer in attention_modules(case.model) for head in range(n_heads(case))]
    sampled = everything if loop_heads is None else random.sample(everything, min(loop_heads, len(everything)))

    def ours() -> Ablated:
        return ablate_every_head(case.model, case.inputs, case.positions, case.target_ids)

    found = ours()
    clean, ablated = found.clean.exp(), found.heads.exp()
    seconds = [timed(ours)[0] for _ in range(repeats)]
    ablate_step(case, prefill(case, case.positions[0]), case.positions[0], 0, attention_modules(case.model)[0], 0)
    prefilling, stepping, looped = time_loop(case, set(sampled))
    loop_seconds = prefilling + stepping * len(everything) / len(sampled)
    return {
        "case": case.name,
        "targets": len(case.positions),
        "heads": len(everything),
        "loop_heads_timed": len(sampled),
        "ours_seconds": statistics.median(seconds),
        "ours_all_seconds": seconds,
        "loop_seconds": loop_seconds,
        "ratio": loop_seconds / statistics.median(seconds),
        "max_difference": float((looped - ablated)[~looped.isnan()].abs().max()),
        "max_influence": float((clean[:, None, None] - ablated).abs().max()),
    }


def n_heads(case: Case) -> int:
    return case.model.config.get_text_config().num_attention_heads


def clock() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(function: Callable) -> tuple[float, object]:
    began = clock()
    result = function()
    return clock() - began, result


def describe_run() -> dict:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": f"CPU {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def format_table(rows: list[dict]) -> str:
    lines = [
        "| case | ours, s | loop, s | ratio | max abs difference | largest influence |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        timed_heads, heads = row["loop_heads_timed"], row["heads"]
        scaled = "" if timed_heads == heads else f" (scaled from {timed_heads} of {heads} heads)"
        lines.append(
            f"| {row['case']}, {row['targets']} targets | {row['ours_seconds']:.2f} "
            f"| {row['loop_seconds']:.1f}{scaled} | {row['ratio']:.1f} "
            f"| {row['max_difference']:.1e} | {row['max_influence']:.1e} |"
        )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--model", type=Path, help="a LLaVA checkpoint folder; default: mini, where it is there")
    flags.add_argument("--cases", nargs="+", choices=["llama", "model"], default=["llama", "model"])
    flags.add_argument("--repeats", type=int, default=3, help="runs of the sweep; the median counts")
    flags.add_argument("--loop-heads", type=int, help="time this many random heads in the loop and scale; default: all")
    flags.add_argument("--threads", type=int, help="CPU threads; default: torch's")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--json", type=Path, help="write the table as JSON too")
    return flags


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    path = args.model or MINI
    if args.model and not (path / "config.json").is_file():
        raise ValueError(f"--model {path}: no config.json there; a LLaVA checkpoint folder is needed")
    if args.repeats < 1 or (args.loop_heads is not None and args.loop_heads < 1):
        raise ValueError(f"--repeats {args.repeats}, --loop-heads {args.loop_heads}: both must be at least 1")
    if args.threads:
        torch.set_num_threads(args.threads)
    random.seed(args.seed)
    builders = {"llama": llama_case, "model": lambda: checkpoint_case(path)}
    rows = []
    for name in args.cases:
        if name == "model" and not (path / "config.json").is_file():
            print(f"(no model in {path}: that case is left out)\n")
            continue
        torch.manual_seed(args.seed)
        rows.append(measure(builders[name](), args.repeats, args.loop_heads))
    run = describe_run()
    print(format_table(rows), "\n", *(f"{key}: {value}" for key, value in run.items()), sep="\n")
    if args.json:
        settings = {name: str(value) for name, value in vars(args).items()}
        args.json.write_text(json.dumps({"run": run, "settings": settings, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
