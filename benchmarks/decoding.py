"""Time per generated token of the decoding methods, relative to greedy decoding, all in one run.

One batch of drawn scenes; end tokens are suppressed, so that every method takes the same number of steps. The methods
take turns, and each is compared with the greedy run of the same turn. DoLa's vocabulary products, one per candidate
layer, are timed apart: no implementation does without them. On a CPU the seconds are those that the process computed,
so that other work on the machine counts less. Peak memory is that of a process of its own for each method.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from measuring import REPO, benchmark_parser, finish, measure_process, ratio, show_ratio

from llava_hh.attention.interventions import DeactivateText
from llava_hh.baselines.dola import DolaSettings, candidate_layers
from llava_hh.command_line.numbers import SIZE
from llava_hh.decoding.generation import answer_samples
from llava_hh.decoding.making import Material
from llava_hh.decoding.method import Greedy, Method
from llava_hh.decoding.reading import method_of as make
from llava_hh.files.tables import markdown_table
from llava_hh.heads import random_heads
from llava_hh.mini.world import render, sample_scene
from llava_hh.models.lvlm import DESCRIBE, Lvlm, load_lvlm

DECODERS = ("vcd_paper", "dola_repo", "pai")
DOLA, PRODUCTS = "dola_repo", "DoLa's vocabulary products alone"


def methods_to_time(lvlm: Lvlm, top_k: int, decoders: Sequence[str]) -> dict[str, Method]:
    """Greedy decoding first; AD-HH on random heads, whose cost is that of any others."""
    heads = tuple(random_heads(lvlm.n_layers, lvlm.n_heads, top_k, seed=0))
    edited = Greedy((DeactivateText(heads, 0.4),))
    return {"greedy": Greedy(), f"AD-HH, {top_k} heads": edited, **{kind: decoder(lvlm, kind) for kind in decoders}}


def decoder(lvlm: Lvlm, kind: str) -> Method:
    return make(kind, Material(lvlm)).method


def vocabulary_products(lvlm: Lvlm, settings: DolaSettings, n_rows: int, n_steps: int) -> Callable[[], None]:
    """What DoLa multiplies with the vocabulary matrix in `n_steps` steps of `n_rows` rows."""
    head = lvlm.model.get_output_embeddings()
    n_candidates = len(candidate_layers(lvlm.model, settings))
    states = torch.randn(n_candidates, n_rows, head.in_features).to(head.weight)

    @torch.no_grad()
    def products() -> None:
        for _ in range(n_steps):
            head(states)

    return products


def seconds_of(work: Callable[[], None]) -> float:
    """CPU seconds of this process, all its threads together; with a GPU, seconds that pass until it is done."""
    if not torch.cuda.is_available():
        begun = time.process_time()
        work()
        return time.process_time() - begun
    torch.cuda.synchronize()
    begun = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - begun


def measure(
    lvlm: Lvlm,
    n_rows: int,
    n_tokens: int,
    repeats: int,
    top_k: int,
    decoders: Sequence[str] = DECODERS,
    only: str | None = None,
) -> dict[str, list[float]]:
    """Seconds per generated token of every method in every turn, prefill included; one turn more warms up.

    Args:
        only: leave out all other methods.
    """
    rng = random.Random(0)
    samples = [{"image_id": number} for number in range(n_rows)]
    images = [render(sample_scene(rng, together=1.0), rng) for _ in samples]
    config = lvlm.model.generation_config
    config.suppress_tokens = sorted({*(config.suppress_tokens or []), *lvlm.end_token_ids})

    def decoded(method: Method) -> None:
        answers = answer_samples(lvlm, samples, images, method, DESCRIBE, n_tokens).answers
        if any(len(answer.token_ids) != n_tokens for answer in answers):
            raise ValueError(f"an answer of other than {n_tokens} tokens")

    timed = {
        name: lambda method=method: decoded(method) for name, method in methods_to_time(lvlm, top_k, decoders).items()
    }
    if only:
        timed = {only: timed[only]}
    elif DOLA in decoders:
        timed[PRODUCTS] = vocabulary_products(lvlm, decoder(lvlm, DOLA).settings, n_rows, n_tokens)
    turns = [{name: seconds_of(work) for name, work in timed.items()} for _ in range(repeats + 1)][1:]
    return {name: [turn[name] / (n_rows * n_tokens) for turn in turns] for name in timed}


def summarise(times: dict[str, list[float]]) -> list[dict]:
    """Rows of the table: every method against greedy decoding in the same turn, DoLa beside what it cannot save."""
    greedy = times["greedy"]
    rows = [{"method": name, "seconds_per_token": own, "ratio": ratio(own, greedy)} for name, own in times.items()]
    if PRODUCTS in times:
        base = [one + other for one, other in zip(greedy, times[PRODUCTS], strict=True)]
        row = {"method": f"{DOLA} against greedy and these products", "seconds_per_token": times[DOLA]}
        rows.append(row | {"ratio": ratio(times[DOLA], base)})
    return rows


def parser() -> argparse.ArgumentParser:
    flags = benchmark_parser(__doc__)
    flags.add_argument("--model", type=Path, default=REPO / "checkpoints/mini/model", help="checkpoint folder")
    flags.add_argument("--batch-size", type=SIZE, default=16, help="images per batch")
    flags.add_argument("--tokens", type=SIZE, default=48, help="generated tokens per image")
    flags.add_argument("--repeats", type=SIZE, default=5, help="turns of all methods")
    flags.add_argument("--top-k", type=SIZE, default=20, help="heads that AD-HH looks at")
    flags.add_argument("--threads", type=SIZE, help="CPU threads; default: torch's")
    flags.add_argument("--peak", help=argparse.SUPPRESS)  # decode once by one method and end
    return flags


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    lvlm = load_lvlm(args.model)
    if args.peak:
        measure(lvlm, args.batch_size, args.tokens, 0, args.top_k, only=args.peak)
        return
    rows = summarise(measure(lvlm, args.batch_size, args.tokens, args.repeats, args.top_k))
    sizes = ["--model", args.model, "--batch-size", args.batch_size, "--tokens", args.tokens, "--top-k", args.top_k]
    for row in rows:
        if row["method"] in methods_to_time(lvlm, args.top_k, DECODERS):
            command = [__file__, *sizes, "--peak", row["method"]]
            row["peak_mib"] = measure_process(command, torch.get_num_threads())["peak_mib"]
    lines = [
        (
            row["method"],
            f"{1000 * statistics.median(row['seconds_per_token']):.2f}",
            show_ratio(row["ratio"]),
            f"{row['peak_mib']:,.0f}" if "peak_mib" in row else "",
        )
        for row in rows
    ]
    header = ("method", "ms per token", "against greedy (lowest to highest)", "peak MiB")
    what = f"{lvlm.model.dtype}, {args.batch_size} rows of {args.tokens} tokens, {args.repeats} turns"
    finish(markdown_table(header, lines), {"rows": rows}, args.json, what)


if __name__ == "__main__":
    main()
