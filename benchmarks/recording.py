"""Peak memory and time of recording attention: a plain forward, ours, and eager attention with output_attentions.

One random Llama and one prompt of 2,000 tokens (1,500 of them an image), each way in a process of its own. Ours
records the attention mass of 20 heads on and after the image, and the maps of one head. The ways take turns.
"""

import argparse
import time

from measuring import benchmark_parser, finish, measure_process, ratio, show_ratio

from llava_hh.command_line.numbers import SIZE
from llava_hh.files.tables import markdown_table

WAYS = ("plain", "record", "eager")
N_LAYERS, N_HEADS, D_MODEL = 12, 16, 1024


def forward(way: str, n_tokens: int) -> float:
    """Run one forward pass and return its seconds."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from llava_hh.attention.hooks import record
    from llava_hh.heads import random_heads

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=D_MODEL,
        intermediate_size=2752,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        max_position_embeddings=n_tokens,
        attn_implementation="eager" if way == "eager" else "sdpa",
    )
    model = LlamaForCausalLM(config).eval()
    ids = torch.randint(3, 8192, (1, n_tokens))
    image_mask = torch.zeros_like(ids, dtype=torch.bool)
    image_mask[:, 35 : 35 + 3 * n_tokens // 4] = True
    heads = random_heads(N_LAYERS, N_HEADS, 20, seed=0)
    begun = time.monotonic()
    with torch.no_grad():
        if way == "record":
            with record(model, image_mask, mass=heads, maps=heads[:1]):
                model(ids, logits_to_keep=1)
        else:
            model(ids, logits_to_keep=1, output_attentions=way == "eager")
    return time.monotonic() - begun


def parser() -> argparse.ArgumentParser:
    flags = benchmark_parser(__doc__)
    flags.add_argument("--tokens", type=SIZE, default=2000, help="length of the prompt")
    flags.add_argument("--repeats", type=SIZE, default=5, help="turns of all ways")
    flags.add_argument("--threads", type=SIZE, default=1, help="CPU threads")
    flags.add_argument("--run", choices=WAYS, help=argparse.SUPPRESS)
    return flags


def main() -> None:
    args = parser().parse_args()
    if args.run:
        print(forward(args.run, args.tokens))
        return
    turns = [
        {way: measure_process([__file__, "--run", way, "--tokens", args.tokens], args.threads) for way in WAYS}
        for _ in range(args.repeats)
    ]
    rows = []
    for way in WAYS:
        seconds, plain = ([float(turn[name]["output"]) for turn in turns] for name in (way, "plain"))
        peaks, plain_peaks = ([turn[name]["peak_mib"] for turn in turns] for name in (way, "plain"))
        row = {"way": way, "peak_mib": max(peaks), "peak_ratio": ratio(peaks, plain_peaks)}
        rows.append(row | {"seconds": seconds, "time_ratio": ratio(seconds, plain)})
    lines = [
        (row["way"], f"{row['peak_mib']:,.0f}", show_ratio(row["peak_ratio"]), show_ratio(row["time_ratio"]))
        for row in rows
    ]
    header = ("one forward pass", "peak memory, MiB", "against plain (lowest to highest)", "time against plain")
    finish(markdown_table(header, lines), {"tokens": args.tokens, "rows": rows}, args.json, f"{args.tokens} tokens")


if __name__ == "__main__":
    main()
