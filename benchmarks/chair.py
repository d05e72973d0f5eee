"""CHAIR at scale: 100,000 captions against 8 million annotation rows, and what the plain way takes for a tenth of it.

Ours is `llava-hh score chair`, in a process of its own. Plain: json.load of the annotations, pycocotools' index, and
nltk's tokenizer on every caption, in another process; the two take turns on the tenth.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path

from measuring import benchmark_parser, finish, measure_process, ratio, show_ratio

from llava_hh.command_line.numbers import RANDOM_SEED, SIZE
from llava_hh.files.tables import markdown_table
from llava_hh.metrics.chair.variants import load_synonyms
from llava_hh.mini.talk import caption
from llava_hh.mini.world import sample_scene

PLAIN = """
import json, sys
from pycocotools.coco import COCO
from llava_hh.metrics.chair import chair
from llava_hh.metrics.chair import words
words._split_sentence = words._tokenizer().tokenize
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
    images = [{"id": image_id, "file_name": f"{image_id}.jpg"} for image_id in range(n_captions)]
    with open(annotations / "instances_val2014.json", "w", encoding="utf-8") as file:
        file.write(f'{{"images": {json.dumps(images)}, "annotations": [')
        for number in range(n_rows):
            row = {"id": number, "image_id": number % n_captions, "category_id": rng.randrange(1, 81), "iscrowd": 0}
            file.write(
                (", " if number else "") + json.dumps(row | {"area": 1234.5, "bbox": [10.5, 20.25, 30.0, 40.75]})
            )
        file.write("], " + ends)
    (annotations / "captions_val2014.json").write_text(json.dumps({"images": images, "annotations": []}))
    return captions, annotations


def measure(way: str, n_captions: int, n_rows: int, seed: int) -> dict:
    """One run of one way on data made for it."""
    with tempfile.TemporaryDirectory() as folder:
        captions, annotations = write_data(Path(folder), n_captions, n_rows, seed)
        command = ["-m", "llava_hh", "score", "chair", "--captions", captions, "--annotations", annotations]
        if way == "plain":
            command = ["-c", PLAIN, captions, annotations / "instances_val2014.json"]
        done = measure_process(command)
    return {
        "way": way,
        "captions": n_captions,
        "rows": n_rows,
        "seconds": done["seconds"],
        "peak_mib": done["peak_mib"],
    }


def parser() -> argparse.ArgumentParser:
    flags = benchmark_parser(__doc__)
    flags.add_argument("--captions", type=SIZE, default=100_000)
    flags.add_argument("--rows", type=SIZE, default=8_000_000)
    flags.add_argument("--repeats", type=SIZE, default=3, help="turns of both ways on a tenth")
    flags.add_argument("--seed", type=RANDOM_SEED, default=0)
    return flags


def main() -> None:
    args = parser().parse_args()
    whole = measure("ours", args.captions, args.rows, args.seed)
    tenth = args.captions // 10, args.rows // 10, args.seed
    turns = [(measure("ours", *tenth), measure("plain", *tenth)) for _ in range(args.repeats)]
    faster = ratio(*([turn[way]["seconds"] for turn in turns] for way in (1, 0)))
    rows = [whole, *(min((turn[way] for turn in turns), key=lambda row: row["seconds"]) for way in (0, 1))]
    lines = [
        (
            row["way"],
            f"{row['captions']:,}",
            f"{row['rows']:,}",
            f"{row['seconds']:.1f}",
            f"{row['peak_mib']:,.0f}",
            more,
        )
        for row, more in zip(rows, ("", show_ratio(faster), ""), strict=True)
    ]
    header = ("CHAIR", "captions", "annotation rows", "seconds", "peak memory, MiB", "times as fast as plain")
    finish(markdown_table(header, lines), {"rows": rows, "turns": turns, "times_as_fast": faster}, args.json)


if __name__ == "__main__":
    main()
