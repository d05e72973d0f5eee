"""What plan.py assumes of a GPU, measured on one with random weights of a real size (our estimate: 8 minutes).

Plain products: the decoder's widest, alone, in bfloat16. The sweep's share: its products and those of the sample's
forward pass at the rate of plain ones, over the time of both. The loop: one cached pass of a token for each head and
target, timed on some heads. Decoding: greedily, and with AD-HH on random heads. Recording: the attention mass of these
heads and the map of one. Then plan.py's table from these rates. On a CPU memory is left out, and --size tiny suffices
to see that all of it runs.
"""

import argparse
import contextlib
import io
import statistics
from dataclasses import astuple, dataclass
from functools import partial

import plan
import torch
from attribution import Case, ablate_step, prefill, random_case, timed
from measuring import benchmark_parser, finish, ratio, show_ratio
from torch import Tensor
from transformers import LlamaConfig

from llava_hh.attention.hooks import intervene, record
from llava_hh.attention.interventions import DeactivateText
from llava_hh.attention.modules import attention_modules
from llava_hh.attribution.ablation import Ablated, ablate_every_head
from llava_hh.command_line.numbers import SIZE
from llava_hh.files.tables import markdown_table
from llava_hh.heads import Head, random_heads

ROWS = 4096  # of a plain product: what a sweep carries at most
GIB, MIB = 2**30, 2**20


@dataclass(frozen=True)
class Size:
    """A decoder, and a sample for it: tokens of image and question, and of the answer; heads that AD-HH looks at."""

    decoder: plan.Decoder
    prompt: int
    answer: int
    n_heads: int = 20


SIZES = {
    "tiny": Size(plan.Decoder(3, 4, 64, 32, 128, 256), prompt=24, answer=12, n_heads=4),
    "1b": Size(plan.Decoder(16, 32, 2048, 512, 8192, 128256), prompt=640, answer=100),
    "7b": Size(plan.Decoder(32, 32, 4096, 4096, 11008, 32000), prompt=640, answer=100),
}


def build(size: Size, n_targets: int, device: str) -> Case:
    """A random model of this size in float32, and a sample with its targets in the answer."""
    decoder = size.decoder
    config = LlamaConfig(
        vocab_size=decoder.vocabulary,
        hidden_size=decoder.width,
        intermediate_size=decoder.mlp_width,
        num_hidden_layers=decoder.layers,
        num_attention_heads=decoder.heads,
        num_key_value_heads=decoder.key_width * decoder.heads // decoder.width,
        max_position_embeddings=2 * (size.prompt + size.answer),
        initializer_range=1.6 * decoder.width**-0.5,  # wide enough for heads to matter, as in attribution.py
    )
    positions = [size.prompt + size.answer * number // n_targets for number in range(n_targets)]
    with torch.device(device):
        return random_case(config, size.prompt + size.answer, positions, "float32")


def ablate(case: Case) -> Ablated:
    return ablate_every_head(case.model, case.inputs, case.positions, case.target_ids)


def plain_rate(decoder: plan.Decoder, repeats: int, device: str) -> float:
    """Flop a second of plain products in bfloat16, the median."""
    shapes = (ROWS, decoder.width), (decoder.width, decoder.mlp_width)
    left, right = (torch.randn(shape, device=device, dtype=torch.bfloat16) for shape in shapes)
    seconds = [timed(partial(torch.mm, left, right))[0] for _ in range(repeats + 3)][3:]
    return 2 * ROWS * decoder.width * decoder.mlp_width / statistics.median(seconds)


def time_attribution(case: Case, size: Size, n_passes: int, repeats: int, rate: float) -> dict:
    """Seconds of the sweep and of the loop in turns, and the sweep's share of the rate of plain products."""
    decoder, length, n_targets = size.decoder, size.prompt + size.answer, len(case.positions)
    heads = random_heads(decoder.layers, decoder.heads, min(n_passes, len(case.heads())), seed=0)
    attentions = attention_modules(case.model)
    cache, position = prefill(case, case.positions[0]), case.positions[0]

    def passes() -> None:
        for layer, head in heads:
            ablate_step(case, cache, position, case.target_ids[0], attentions[layer], head)

    ablate(case)
    passes()
    turns = [(timed(partial(ablate, case))[0], timed(passes)[0] / len(heads)) for _ in range(repeats)]
    sweeps, each = ([turn[way] for turn in turns] for way in (0, 1))
    loops = [n_targets * len(case.heads()) * seconds for seconds in each]
    forward = length * decoder.token_flop(decoder.layers, length // 2, with_vocabulary=False)
    flop = forward + n_targets * decoder.sweep_flop(length)
    return {
        "sweep_seconds": sweeps,
        "loop_seconds": loops,
        "loop_to_sweep": ratio(loops, sweeps),
        "pass_seconds": each,
        "sweep_share": flop / rate / statistics.median(sweeps),
    }


def compare_types(exact: Ablated, rounded: Ablated, top_k: int) -> dict:
    """How far bfloat16 is from float32: probabilities without each head, and the heads of most influence."""
    difference = (exact.heads.exp() - rounded.heads.exp()).abs()
    best = [
        {*(found.clean[:, None, None].exp() - found.heads.exp()).mean(0).flatten().topk(top_k).indices.tolist()}
        for found in (exact, rounded)
    ]
    return {
        "largest_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "top_k": top_k,
        "top_in_common": len(best[0] & best[1]),
    }


def image_in(ids: Tensor, size: Size) -> Tensor:
    """Where an image would be: nine tenths of the prompt."""
    places = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
    return (places >= size.prompt // 20) & (places < size.prompt * 19 // 20)


def time_decoding(case: Case, size: Size, n_rows: int, heads: list[Head], repeats: int) -> dict:
    """Seconds of a step of greedy decoding and of AD-HH in turns, prefill included; a turn of each more warms up."""
    ids = case.inputs["input_ids"][:, : size.prompt].repeat(n_rows, 1)
    how = {"attention_mask": torch.ones_like(ids), "pad_token_id": 0, "do_sample": False}
    how |= {"max_new_tokens": size.answer, "min_new_tokens": size.answer}

    def decode(edits: list[DeactivateText]) -> None:
        with intervene(case.model, image_in(ids, size), edits):
            case.model.generate(ids, **how)

    ways = {"greedy": [], "AD-HH": [DeactivateText(heads, 0.4)]}
    turns = [{name: timed(partial(decode, edits))[0] for name, edits in ways.items()} for _ in range(repeats + 1)][1:]
    greedy, edited = ([turn[name] / size.answer for turn in turns] for name in ways)
    return {
        "rows": n_rows,
        "step_seconds": greedy,
        "adhh_step_seconds": edited,
        "against_greedy": ratio(edited, greedy),
    }


@torch.no_grad()
def recording_memory(case: Case, size: Size, heads: list[Head]) -> dict | None:
    """Most memory above the model's in a forward pass over the prompt, MiB, plain and recording; None on a CPU."""
    ids, peaks = case.inputs["input_ids"][:, : size.prompt], {}
    for way, block in (("plain", {}), ("record", {"mass": heads, "maps": heads[:1]})):
        if ids.is_cuda:
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
        with record(case.model, image_in(ids, size), **block) if block else contextlib.nullcontext():
            case.model(ids, logits_to_keep=1)
        if ids.is_cuda:
            peaks[way] = (torch.cuda.max_memory_allocated() - held) / MIB
    return {**peaks, "ratio": peaks["record"] / peaks["plain"]} if peaks else None


def planned(size: Size, rate: float, attributed: dict, step_seconds: float) -> str:
    """plan.py's table and line from the measured rates."""
    reading = size.decoder.bytes / statistics.median(attributed["pass_seconds"])
    flags = {"--tflops": rate / plan.TERA, "--efficiency": 1, "--sweep-share": min(1, attributed["sweep_share"])}
    flags |= {"--terabytes": reading / plan.TERA, "--step-ms": 1000 * step_seconds}
    flags |= {"--prompt-tokens": size.prompt, "--caption-tokens": size.answer}
    argv = [str(part) for pair in flags.items() for part in pair]
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        plan.main([*argv, "--decoder", *map(str, astuple(size.decoder))])
    return shown.getvalue().strip()


def refuse_small_gpu(size: Size) -> None:
    """See that float32 weights have room.

    Raises:
        ValueError: they have none; names sizes that need less.
    """
    needed, free = 2.6 * size.decoder.bytes, torch.cuda.mem_get_info()[0]
    if needed > free:
        have = f"{needed / GIB:.0f} GiB are needed, {free / GIB:.0f} are free"
        raise ValueError(f"this GPU is too small: {have}; choose --size {' or '.join([*SIZES][:-1])}")


def measure(size: Size, args: argparse.Namespace, device: str) -> dict:
    """All figures, JSON-ready, with plan.py's table under `plan`."""
    heads = random_heads(size.decoder.layers, size.decoder.heads, size.n_heads, seed=0)
    case = build(size, args.targets, device)
    exact = ablate(case)
    case.model.bfloat16()
    types = compare_types(exact, ablate(case), size.n_heads)
    rate = plain_rate(size.decoder, 10 * args.repeats, device)
    attributed = time_attribution(case, size, args.passes, args.repeats, rate)
    decoded = [time_decoding(case, size, n_rows, heads, args.repeats) for n_rows in args.batch_sizes]
    step = statistics.median(decoded[-1]["step_seconds"])
    return {
        "case": case.name,
        "plain_tflops": rate / plan.TERA,
        "attribution": attributed,
        "types": types,
        "decoding": decoded,
        "recording_mib": recording_memory(case, size, heads),
        "plan": planned(size, rate, attributed, step),
    }


def format_table(found: dict) -> str:
    attributed, types, memory = found["attribution"], found["types"], found["recording_mib"]
    common = f"{types['top_in_common']} of the {types['top_k']} strongest heads in common"
    difference = f"{types['mean_difference']:.1e} in the mean, {types['largest_difference']:.1e} at most; {common}"
    lines = [
        ("plain products, bfloat16", f"{found['plain_tflops']:.2f} TFLOPS"),
        ("the sweep's share of that", f"{attributed['sweep_share']:.2f}"),
        ("sweep, all heads and targets", f"{statistics.median(attributed['sweep_seconds']):.2f} s"),
        ("loop over the sweep", show_ratio(attributed["loop_to_sweep"])),
        ("a cached pass of the loop", f"{1000 * statistics.median(attributed['pass_seconds']):.1f} ms"),
        ("bfloat16 from float32, probability without a head", difference),
    ]
    for row in found["decoding"]:
        step = f"{1000 * statistics.median(row['step_seconds']):.1f} ms"
        lines.append((f"a greedy step, batch {row['rows']}", step))
        lines.append((f"AD-HH against greedy, batch {row['rows']}", show_ratio(row["against_greedy"])))
    shown = memory and f"{memory['record']:,.0f} MiB, {memory['ratio']:.2f} of a plain pass"
    lines.append(("recording, memory above the model's", shown or "left out on a CPU"))
    return f"{found['case']}\n\n{markdown_table(('measured', 'value'), lines)}\n\n{found['plan']}"


def parser() -> argparse.ArgumentParser:
    flags = benchmark_parser(__doc__)
    flags.add_argument("--size", choices=SIZES, default="7b", help="of the random model; 7b is LLaVA-1.5-7B's decoder")
    flags.add_argument("--targets", type=SIZE, default=4, help="words to attribute")
    flags.add_argument("--passes", type=SIZE, default=50, help="heads that the loop is timed on")
    flags.add_argument("--batch-sizes", type=SIZE, nargs="+", default=[1, 16], help="rows that are decoded at once")
    flags.add_argument("--repeats", type=SIZE, default=3, help="turns")
    return flags


def main(argv: list[str] | None = None) -> None:
    flags = parser()
    args = flags.parse_args(argv)
    size, device = SIZES[args.size], "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if device == "cuda":
            refuse_small_gpu(size)
        if args.targets > size.answer:
            raise ValueError(f"--targets {args.targets}: expected at most {size.answer}, the tokens of the answer")
    except ValueError as error:
        flags.error(str(error))
    found = measure(size, args, device)
    finish(format_table(found), {"size": args.size, **found}, args.json)


if __name__ == "__main__":
    main()
