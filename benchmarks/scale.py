"""How captioning scales: with the batch, and with processes. Greedy decoding and AD-HH on drawn scenes.

Batches: processor seconds per generated token at each size, all in the same turns; end tokens are suppressed, so that
every row has as many tokens. Processes: the script caption on the same images, by one process of one thread and by
several under accelerate's launcher; seconds that pass, without loading the model. Prints Markdown tables, and writes
JSON with --json.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from decoding import REPO, describe_run, measure

from llava_hh.mini.dataset import Split, write_split
from llava_hh.models.lvlm import load_lvlm
from llava_hh.runs import read_json


def time_batches(lvlm, sizes: list[int], n_tokens: int, repeats: int) -> list[dict]:
    """Rows of the first table; the first size is what the others are compared with."""
    rows, base = [], []
    for size in sizes:
        times = measure(lvlm, size, n_tokens, repeats, top_k=20, decoders=())
        base = base or times["greedy"]
        for name, own in times.items():
            seconds = statistics.median(own)
            row = {"batch": size, "method": name, "seconds_per_token": seconds}
            row["throughput"] = statistics.median(base) / seconds
            row["against_greedy"] = statistics.median(a / b for a, b in zip(own, times["greedy"], strict=True))
            rows.append(row)
    return rows


def caption_seconds(model: Path, coco: Path, out: Path, n_images: int, n_processes: int) -> float:
    """Seconds of one run of caption.py after its model was loaded."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--mixed_precision", "no"]
    launcher += ["--dynamo_backend", "no", "--num_processes", str(n_processes), "--main_process_port", str(port)]
    command = [sys.executable, *(launcher if n_processes > 1 else []), "-m", "llava_hh.scripts.caption"]
    command += ["--model", model, "--image-folder", coco / "val2014", "--annotations", coco / "annotations"]
    command += ["--limit", n_images, "--batch-size", 8, "--out", out]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(list(map(str, command)), cwd=REPO, env=environment, check=True, stdout=subprocess.DEVNULL)
    return read_json(out / "run.json")["seconds"]


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    flags.add_argument("--model", type=Path, default=REPO / "checkpoints/mini/model", help="checkpoint folder")
    flags.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 16])
    flags.add_argument("--tokens", type=int, default=48, help="generated tokens per image")
    flags.add_argument("--repeats", type=int, default=3, help="turns of each batch size; medians count")
    flags.add_argument("--images", type=int, default=64, help="images that processes share")
    flags.add_argument("--processes", type=int, default=2)
    flags.add_argument("--json", type=Path, help="write the tables as JSON too")
    args = flags.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        coco = Path(folder) / "coco"
        write_split(Split("val2014", args.images, 900, together=0.45), coco)
        seconds = {
            count: caption_seconds(args.model, coco, Path(folder) / str(count), args.images, count)
            for count in (1, args.processes)
        }
    torch.set_num_threads(1)
    lvlm = load_lvlm(args.model)
    rows = time_batches(lvlm, args.batch_sizes, args.tokens, args.repeats)
    print("| batch | method | ms per token | throughput against the first | against greedy |\n|---|---|---|---|---|")
    for row in rows:
        cells = (f"{1000 * row['seconds_per_token']:.1f}", f"{row['throughput']:.2f}", f"{row['against_greedy']:.2f}")
        print(f"| {row['batch']} | {row['method']} | {' | '.join(cells)} |")
    print(f"\n| processes of one thread | seconds for {args.images} images | speed |\n|---|---|---|")
    for count, own in seconds.items():
        print(f"| {count} | {own:.1f} | {seconds[1] / own:.2f} |")
    print(f"\n{describe_run(lvlm)}")
    if args.json:
        content = {"run": describe_run(lvlm), "batches": rows, "processes": seconds}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
