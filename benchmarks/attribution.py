"""Time of zeroing every head for every target: our batched sweep against a loop of cached forward passes.

The two take turns on the same sample. The loop is what one would write without the sweep: per target a prefill into a
KV cache, then one single-token pass per head under a hook, dropping the added token after each; every turn times
another part of the heads and scales, all turns together have all heads, whose probabilities must be ours. Seconds are
for the whole, the sample's forward pass included; peak memory is that of a process of its own for each way. Matrix
share: the part of the sweep's time in matrix products; of plain rate: what products of the same shapes take alone,
over the time of the sweep. In bfloat16 both ways are, and the difference is the sweep's to the float32 sweep.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from measuring import REPO, benchmark_parser, finish, measure_process, ratio, show_ratio
from torch import Tensor, nn
from torch.profiler import profile
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from llava_hh.attention.modules import attention_modules
from llava_hh.attribution.ablation import ablate_every_head
from llava_hh.attribution.targets import find_targets
from llava_hh.command_line.numbers import SIZE
from llava_hh.files.module_hooks import hooked
from llava_hh.files.tables import markdown_table
from llava_hh.metrics.chair.chair import find_objects
from llava_hh.mini.talk import caption
from llava_hh.mini.world import render, sample_scene
from llava_hh.models.loading import Loading
from llava_hh.models.lvlm import DESCRIBE, load_lvlm

MINI = REPO / "checkpoints" / "mini" / "model"
TARGETS = 6  # words to explain in one caption
SPREAD = 0.05  # of random weights: wide enough for heads to matter
PRODUCTS = {"aten::mm": torch.mm, "aten::bmm": torch.bmm}


@dataclass
class Case:
    name: str
    model: PreTrainedModel
    inputs: dict[str, Tensor]
    positions: list[int]
    target_ids: list[int]
    image_mask: Tensor | None = None
    answer_start: int = 0

    @property
    def n_heads(self) -> int:
        return self.model.config.get_text_config().num_attention_heads

    def heads(self) -> list[tuple[int, int]]:
        return [(layer, head) for layer in attention_modules(self.model) for head in range(self.n_heads)]


def llama_case(dtype: str) -> Case:
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
    return random_case(config, 640, [600, 612, 625, 638], dtype)


def random_case(config: LlamaConfig, length: int, positions: list[int], dtype: str) -> Case:
    """A Llama of random weights and a text of random tokens, both on torch's default device."""
    torch.manual_seed(0)
    model, ids = LlamaForCausalLM(config).eval(), torch.randint(3, config.vocab_size, (1, length))
    sizes = f"{config.num_hidden_layers} layers x {config.num_attention_heads} heads, d = {config.hidden_size}"
    name = f"random Llama, {sizes}, {positions[0]}-token prefix"
    targets = likeliest(model, ids, positions)
    return Case(name, model.to(getattr(torch, dtype)), {"input_ids": ids}, positions, targets)


@torch.no_grad()
def likeliest(model: PreTrainedModel, ids: Tensor, positions: list[int]) -> list[int]:
    """The likeliest tokens at positions: a random token's probability is too small to tell two methods apart."""
    return model(ids).logits[0, positions].argmax(-1).tolist()


def checkpoint_case(path: Path, dtype: str) -> Case:
    """A drawn scene and its caption on a real model; the first object words are the targets."""
    lvlm, rng = load_lvlm(path, Loading(dtype)), random.Random(0)
    scene = sample_scene(rng, together=1.0)
    while len(scene.categories) < TARGETS:
        scene = sample_scene(rng, together=1.0)
    text = caption(scene, rng)
    answer = lvlm.tokenizer(text, add_special_tokens=False).input_ids
    batch = lvlm.encode([render(scene, rng)], [DESCRIBE], [answer])
    mentions = [
        asdict(mention) | {"hallucinated": mention.node not in scene.categories} for mention in find_objects(text)
    ]
    targets = find_targets(lvlm.tokenizer, answer, text, mentions)[:TARGETS]
    positions = [batch.response_start[0] + target.index - 1 for target in targets]
    name = f"{path.parent.name if path == MINI else path}, all {lvlm.n_layers * lvlm.n_heads} heads"
    target_ids = [answer[target.index] for target in targets]
    inputs, start = dict(batch.inputs), batch.response_start[0]
    return Case(name, lvlm.model, inputs, positions, target_ids, batch.image_mask[0], start)


def build(name: str, model: Path, dtype: str) -> Case:
    return llama_case(dtype) if name == "llama" else checkpoint_case(model, dtype)


def sweep(case: Case) -> Tensor:
    """Probabilities (target, layer, head), ours."""
    return ablate_every_head(case.model, case.inputs, case.positions, case.target_ids).heads.exp()


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
    width = attention.o_proj.in_features // case.n_heads

    def zero(_, args):
        z = args[0].clone()
        z[..., head * width : (head + 1) * width] = 0
        return (z,)

    with hooked([(attention.o_proj, zero)], before=True):
        token = case.inputs["input_ids"][:, position : position + 1]
        logits = case.model(input_ids=token, past_key_values=cache, use_cache=True).logits
    cache.crop(-1)
    return float(logits[0, -1].float().softmax(-1)[target])


def loop(case: Case, heads: list[tuple[int, int]], probs: Tensor) -> float:
    """Seconds of the loop over all heads, scaled from `heads`; `probs` (target, layer, head) gets theirs."""
    attentions = attention_modules(case.model)
    seconds = 0.0
    for row, (position, target) in enumerate(zip(case.positions, case.target_ids, strict=True)):
        prefilling, cache = timed(lambda position=position: prefill(case, position))
        begun = clock()
        for layer, head in heads:
            probs[row, layer, head] = ablate_step(case, cache, position, target, attentions[layer], head)
        seconds += prefilling + (clock() - begun) * len(case.heads()) / len(heads)
    return seconds


def clock() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(function: Callable) -> tuple[float, object]:
    begun = clock()
    result = function()
    return clock() - begun, result


def product_share(case: Case) -> dict:
    """Part of the sweep's time that is matrix products, and the time of the same products alone over the sweep's."""
    seconds = statistics.median(timed(lambda: sweep(case))[0] for _ in range(3))
    with profile(record_shapes=True) as recorded:
        sweep(case)
    events = recorded.key_averages(group_by_input_shape=True)
    total = sum(event.self_cpu_time_total for event in events)
    products = [event for event in events if event.key in PRODUCTS]
    alone = 0.0
    for event in products:
        left, right = (torch.randn(shape).to(case.model.dtype) for shape in event.input_shapes[:2])
        multiply = PRODUCTS[event.key]
        alone += event.count * min(timed(lambda a=left, b=right, by=multiply: by(a, b))[0] for _ in range(3))
    share = sum(event.self_cpu_time_total for event in products) / total
    return {"product_share": share, "of_plain_rate": alone / seconds}


def measure(name: str, model: Path, dtype: str, repeats: int, loop_heads: int | None) -> dict:
    """One row of the table; a run of each way more warms up."""
    case = build(name, model, dtype)
    heads = random.Random(0).sample(case.heads(), min(loop_heads or len(case.heads()), len(case.heads())))
    found = sweep(case)
    looped = torch.full_like(found, torch.nan)
    ablate_step(case, prefill(case, case.positions[0]), case.positions[0], 0, attention_modules(case.model)[0], 0)
    ours, theirs = [], []
    for turn in range(repeats):
        ours.append(timed(lambda: sweep(case))[0])
        theirs.append(loop(case, heads[turn::repeats], looped))
    if dtype == "float32":
        reference, compared = looped, "the loop"
    else:
        reference, compared = sweep(build(name, model, "float32")), "float32"
    same = ~reference.isnan()
    row = {"case": f"{case.name}, {len(case.positions)} targets", "dtype": dtype, "heads": len(case.heads())}
    row |= {"loop_heads_timed": len(heads), "ours_seconds": ours, "loop_seconds": theirs, "ratio": ratio(theirs, ours)}
    row |= {"max_difference": float((reference - found)[same].abs().max()), "difference_to": compared}
    if not torch.cuda.is_available():
        row |= product_share(case)
    for way in ("ours", "loop"):
        command = [__file__, "--cases", name, "--model", model, "--dtypes", dtype, "--peak", way]
        row[f"{way}_peak_mib"] = measure_process(command, torch.get_num_threads())["peak_mib"]
    return row


def format_table(rows: list[dict]) -> str:
    header = ("case", "type", "ours, s", "loop, s", "ratio (lowest to highest)", "largest difference")
    lines = [
        (
            row["case"],
            row["dtype"],
            f"{statistics.median(row['ours_seconds']):.2f}",
            f"{statistics.median(row['loop_seconds']):.1f}",
            show_ratio(row["ratio"]),
            f"{row['max_difference']:.1e} to {row['difference_to']}",
            f"{row['product_share']:.0%}, {row['of_plain_rate']:.2f}" if "product_share" in row else "",
            f"{row['ours_peak_mib']:,.0f}, {row['loop_peak_mib']:,.0f}",
        )
        for row in rows
    ]
    return markdown_table((*header, "matrix share, of plain rate", "peak MiB, ours and loop"), lines)


def parser() -> argparse.ArgumentParser:
    flags = benchmark_parser(__doc__)
    flags.add_argument("--model", type=Path, default=MINI, help="a LLaVA checkpoint folder")
    flags.add_argument("--cases", nargs="+", choices=["llama", "model"], default=["llama", "model"])
    flags.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    flags.add_argument("--repeats", type=SIZE, default=5, help="turns of both ways")
    flags.add_argument("--loop-heads", type=SIZE, help="time this many random heads in the loop; default: all")
    flags.add_argument("--threads", type=SIZE, help="CPU threads; default: torch's")
    flags.add_argument("--peak", choices=["ours", "loop"], help=argparse.SUPPRESS)  # run one way and end
    return flags


def main(argv: list[str] | None = None) -> None:
    flags = parser()
    args = flags.parse_args(argv)
    if "model" in args.cases and not (args.model / "config.json").is_file():
        flags.error(f"--model {args.model}: no config.json there; a LLaVA checkpoint folder is needed")
    if args.loop_heads is not None and args.loop_heads < args.repeats:
        flags.error(f"--repeats {args.repeats}, --loop-heads {args.loop_heads}: expected a head for every turn")
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.peak:
        case = build(args.cases[0], args.model, args.dtypes[0])
        if args.peak == "ours":
            sweep(case)
        else:
            loop(case, case.heads()[:3], torch.empty(len(case.positions), len(case.heads()), case.n_heads))
        return
    rows = [
        measure(name, args.model, dtype, args.repeats, args.loop_heads) for name in args.cases for dtype in args.dtypes
    ]
    settings = {name: str(value) for name, value in vars(args).items()}
    finish(format_table(rows), {"settings": settings, "rows": rows}, args.json)


if __name__ == "__main__":
    main()
