"""Peak memory of captioning and attribution: does it grow with the number of samples?

Each script runs in a process of its own on 100 and on 1,000 drawn images, with the random LLaVA of the tests, so small
that anything kept per sample would show. Prints a Markdown table and writes it as JSON with --json.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "tests"))

from tiny_checkpoint import save_tiny_checkpoint, write_tiny_coco  # noqa: E402


def peak_of(module: str, flags: list[object]) -> float:
    """Largest resident memory of one run of a script, MiB."""
    command = [sys.executable, "-m", f"llava_hh.scripts.{module}", *map(str, flags)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=REPO, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{module} failed")
    return usage.ru_maxrss / 1024


def measure(folder: Path, sizes: list[int], seed: int) -> list[dict]:
    checkpoint, coco = folder / "checkpoint", folder / "coco"
    save_tiny_checkpoint(checkpoint)
    write_tiny_coco(coco, max(sizes))
    data = ["--model", checkpoint, "--image-folder", coco / "train2014"]
    peaks: dict[str, list[float]] = {"caption": [], "attribute": []}
    for size in sizes:
        out = folder / str(size)
        sample = ["--annotations", coco / "annotations", "--split", "train2014", "--limit", size, "--seed", seed]
        peaks["caption"].append(peak_of("caption", [*data, *sample, "--max-new-tokens", 10, "--out", out]))
        peak_of("evaluate_chair", ["--captions", out / "captions.jsonl", "--annotations", coco / "annotations"])
        captions = ["--captions", out / "captions_eval_results.json"]
        peaks["attribute"].append(peak_of("attribute", [*data, *captions, "--out", out / "attribution"]))
    return [
        {"script": script, "peaks_mib": values, "ratio": values[-1] / values[0]} for script, values in peaks.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000], help="numbers of images, smallest first")
    parser.add_argument("--seed", type=int, default=0, help="of the sample of images")
    parser.add_argument("--json", type=Path, help="write the figures as JSON too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), args.sizes, args.seed)
    print(f"| peak memory, MiB | {' | '.join(f'{size} images' for size in args.sizes)} | ratio |")
    print("|---|" + "---|" * (len(args.sizes) + 1))
    for row in rows:
        print(f"| {row['script']} | {' | '.join(f'{peak:.0f}' for peak in row['peaks_mib'])} | {row['ratio']:.3f} |")
    if args.json:
        where = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": platform.machine()}
        args.json.write_text(json.dumps({**where, "sizes": args.sizes, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
