"""Peak memory and time of recording attention: a plain forward, ours, and eager attention with output_attentions.

One random Llama and one prompt of 2,000 tokens (1,500 of them an image), each way in a process of its own. Ours
records the attention mass of 20 heads on and after the image, and the maps of one head. Prints a Markdown table, and
writes JSON with --json.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
WAYS = ("plain", "record", "eager")
N_LAYERS, N_HEADS, D_MODEL = 12, 16, 1024


def forward(way: str, n_tokens: int) -> float:
    """Run one forward pass and return its seconds."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from llava_hh.heads import random_heads
    from llava_hh.hooks import record

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


def measure(way: str, n_tokens: int, threads: int) -> dict:
    """Peak resident memory (MiB) and seconds of one way, in a process of its own."""
    command = [sys.executable, __file__, "--run", way, "--tokens", str(n_tokens)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(REPO)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    seconds = float(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{way} failed")
    return {"way": way, "peak_mib": usage.ru_maxrss / 1024, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2000, help="length of the prompt")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--json", type=Path, help="write the figures as JSON too")
    parser.add_argument("--run", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print(forward(args.run, args.tokens))
        return
    rows = [measure(way, args.tokens, args.threads) for way in WAYS]
    print("| one forward pass | peak memory, MiB | against plain | seconds |\n|---|---|---|---|")
    for row in rows:
        ratio = row["peak_mib"] / rows[0]["peak_mib"]
        print(f"| {row['way']} | {row['peak_mib']:.0f} | {ratio:.2f} | {row['seconds']:.1f} |")
    if args.json:
        where = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": platform.machine()}
        args.json.write_text(json.dumps({**where, "tokens": args.tokens, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
