"""How captioning scales: with the batch, and with processes. Greedy decoding and AD-HH on drawn scenes.

Batches: processor seconds per generated token at each size, all in the same turns; end tokens are suppressed, so that
every row has as many tokens. Processes: the script caption on the same images, by one process of one thread and by
several under accelerate's launcher; seconds that pass, without loading the model, in turns.
"""

import argparse
import socket
import statistics
import tempfile
from pathlib import Path

import torch
from decoding import measure
from measuring import REPO, benchmark_parser, finish, measure_process, ratio, show_ratio

from llava_hh.command_line.numbers import SIZE
from llava_hh.files.files import read_json
from llava_hh.files.tables import markdown_table
from llava_hh.mini.dataset import Split, write_split
from llava_hh.models.lvlm import load_lvlm


def time_batches(lvlm, sizes: list[int], n_tokens: int, repeats: int) -> list[dict]:
    """Rows of the first table; the first size is what the others are compared with."""
    rows, base = [], []
    for size in sizes:
        times = measure(lvlm, size, n_tokens, repeats, top_k=20, decoders=())
        base = base or times["greedy"]
        for name, own in times.items():
            row = {"batch": size, "method": name, "seconds_per_token": statistics.median(own)}
            rows.append(row | {"throughput": ratio(base, own), "against_greedy": ratio(own, times["greedy"])})
    return rows


def caption_seconds(model: Path, coco: Path, out: Path, n_images: int, n_processes: int) -> float:
    """Seconds of one run of caption.py after its model was loaded."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--mixed_precision", "no"]
    launcher += ["--dynamo_backend", "no", "--num_processes", str(n_processes), "--main_process_port", str(port)]
    command = [*(launcher if n_processes > 1 else []), "-m", "llava_hh", "caption"]
    command += ["--model", model, "--image-folder", coco / "val2014", "--annotations", coco / "annotations"]
    measure_process([*command, "--limit", n_images, "--batch-size", 8, "--out", out])
    return read_json(out / "run.json")["seconds"]


def parser() -> argparse.ArgumentParser:
    flags = benchmark_parser(__doc__)
    flags.add_argument("--model", type=Path, default=REPO / "checkpoints/mini/model", help="checkpoint folder")
    flags.add_argument("--batch-sizes", type=SIZE, nargs="+", default=[1, 4, 16])
    flags.add_argument("--tokens", type=SIZE, default=48, help="generated tokens per image")
    flags.add_argument("--repeats", type=SIZE, default=3, help="turns")
    flags.add_argument("--images", type=SIZE, default=64, help="images that processes share")
    flags.add_argument("--processes", type=SIZE, default=2)
    return flags


def main() -> None:
    args = parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        coco = Path(folder) / "coco"
        write_split(Split("val2014", args.images, 900, together=0.45), coco)
        counts = (1, args.processes)
        turns = [
            {n: caption_seconds(args.model, coco, Path(folder) / f"{n}-{turn}", args.images, n) for n in counts}
            for turn in range(args.repeats)
        ]
    seconds = {count: [turn[count] for turn in turns] for count in counts}
    torch.set_num_threads(1)
    rows = time_batches(load_lvlm(args.model), args.batch_sizes, args.tokens, args.repeats)
    lines = [
        (
            row["batch"],
            row["method"],
            f"{1000 * row['seconds_per_token']:.1f}",
            show_ratio(row["throughput"]),
            show_ratio(row["against_greedy"]),
        )
        for row in rows
    ]
    header = ("batch", "method", "ms per token", "throughput against the first", "time against greedy")
    speed = {count: ratio(seconds[1], own) for count, own in seconds.items()}
    shared = [(count, f"{statistics.median(own):.1f}", show_ratio(speed[count])) for count, own in seconds.items()]
    second = markdown_table(("processes of one thread", f"seconds for {args.images} images", "speed"), shared)
    content = {"batches": rows, "processes": seconds, "speed": speed}
    finish(f"{markdown_table(header, lines)}\n\n{second}", content, args.json)


if __name__ == "__main__":
    main()
