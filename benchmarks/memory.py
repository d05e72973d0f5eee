"""Peak memory of captioning and attribution: does it grow with the number of samples?

Each script runs in a process of its own on 100 and on 1,000 drawn images, with the random LLaVA of the tests, so small
that anything kept per sample would show.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from measuring import REPO, benchmark_parser, finish, measure_process

from llava_hh.command_line.numbers import RANDOM_SEED, SIZE
from llava_hh.files.tables import markdown_table

sys.path.insert(0, str(REPO))

from tests.support.tiny_checkpoint import save_tiny_checkpoint, write_tiny_coco


def peak_of(verb: str, flags: list[object]) -> float:
    """Largest resident memory of one run of a verb, MiB."""
    return measure_process(["-m", "llava_hh", *verb.split(), *flags])["peak_mib"]


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
        peak_of("score chair", ["--captions", out / "captions.jsonl", "--annotations", coco / "annotations"])
        captions = ["--captions", out / "captions_eval_results.json"]
        peaks["attribute"].append(peak_of("attribute", [*data, *captions, "--out", out / "attribution"]))
    return [
        {"script": script, "peaks_mib": values, "ratio": values[-1] / values[0]} for script, values in peaks.items()
    ]


def parser() -> argparse.ArgumentParser:
    flags = benchmark_parser(__doc__)
    flags.add_argument("--sizes", type=SIZE, nargs="+", default=[100, 1000], help="numbers of images, smallest first")
    flags.add_argument("--seed", type=RANDOM_SEED, default=0, help="of the sample of images")
    return flags


def main() -> None:
    args = parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), args.sizes, args.seed)
    lines = [(row["script"], *(f"{peak:.0f}" for peak in row["peaks_mib"]), f"{row['ratio']:.3f}") for row in rows]
    header = ("peak memory, MiB", *(f"{size} images" for size in args.sizes), "ratio")
    finish(markdown_table(header, lines), {"sizes": args.sizes, "rows": rows}, args.json)


if __name__ == "__main__":
    main()
