"""CHAIR at scale: 100,000 captions against 8 million annotation rows, and what the plain way takes for a tenth of it.

Ours is the script evaluate_chair, in a process of its own. Plain: json.load of the annotations, pycocotools' index, and
nltk's tokenizer on every caption, in another process. Prints a Markdown table, and writes it as JSON with --json.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from llava_hh.metrics.variants import load_synonyms
from llava_hh.mini.world import caption, sample_scene

REPO = Path(__file__).resolve().parents[1]
PLAIN = """
import json, sys
from pycocotools.coco import COCO
from llava_hh.metrics import chair, words
words._split_sentence = words._TOKENIZER.tokenize
captions, annotations = sys.argv[1:]
coco = COCO(annotations)
for line in open(captions):
    row = json.loads(line)
    names = {coco.cats[each["category_id"]]["name"] for each in coco.imgToAnns[row["image_id"]]}
    chair.score_caption(row["text"], names)
"""


def write_data(folder: Path, n_captions: int, n_rows: int, seed: int) -> tuple[Path, Path]:
    """Captions of drawn scenes, and rows as COCO's without outlines; returns the captions and the annotation folder."""
    rng = random.Random(seed)
    captions, annotations = folder / "captions.jsonl", folder / "annotations"
    annotations.mkdir(parents=True)
    with open(captions, "w", encoding="utf-8") as file:
        for image_id in range(n_captions):
            text = caption(sample_scene(rng, together=0.5), rng)
            file.write(json.dumps({"image_id": image_id, "text": text}) + "\n")
    names = enumerate(load_synonyms(), start=1)
    ends = json.dumps({"categories": [{"id": number, "name": name} for number, name in names]})[1:]
    with open(annotations / "instances_val2014.json", "w", encoding="utf-8") as file:
        file.write('{"annotations": [')
        for number in range(n_rows):
            row = {"id": number, "image_id": number % n_captions, "category_id": rng.randrange(1, 81), "iscrowd": 0}
            file.write(
                (", " if number else "") + json.dumps(row | {"area": 1234.5, "bbox": [10.5, 20.25, 30.0, 40.75]})
            )
        file.write("], " + ends)
    images = [{"id": image_id, "file_name": f"{image_id}.jpg"} for image_id in range(n_captions)]
    (annotations / "captions_val2014.json").write_text(json.dumps({"images": images, "annotations": []}))
    return captions, annotations


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds and largest resident memory, MiB, of one process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], cwd=REPO, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command[:3])} failed")
    return time.perf_counter() - begun, usage.ru_maxrss / 1024


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    flags.add_argument("--captions", type=int, default=100_000)
    flags.add_argument("--rows", type=int, default=8_000_000)
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--json", type=Path, help="write the table as JSON too")
    args = flags.parse_args()
    rows = []
    for name, share in (("ours", 1), ("ours", 10), ("plain", 10)):
        with tempfile.TemporaryDirectory() as folder:
            sizes = (args.captions // share, args.rows // share)
            captions, annotations = write_data(Path(folder), *sizes, args.seed)
            command = ["-m", "llava_hh.scripts.evaluate_chair", "--captions", captions, "--annotations", annotations]
            if name == "plain":
                command = ["-c", PLAIN, captions, annotations / "instances_val2014.json"]
            seconds, peak = measure([str(word) for word in command])
        rows.append({"way": name, "captions": sizes[0], "rows": sizes[1], "seconds": seconds, "peak_mib": peak})
    print("| CHAIR | captions | annotation rows | seconds | peak memory, MiB |\n|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['way']} | {row['captions']:,} | {row['rows']:,} | {row['seconds']:.1f} | {row['peak_mib']:,.0f} |"
        )
    if args.json:
        where = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": platform.machine()}
        args.json.write_text(json.dumps({**where, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
