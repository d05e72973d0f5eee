"""The head list of a part of the images of a finished attribution, such as those with or without some object.

Nothing is measured again, because the influence on every word was kept: it takes seconds and no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np

from llava_hh.attribution.beside import refuse_other_files
from llava_hh.attribution.captions import digest, hallucinating_captions
from llava_hh.attribution.summary import ArrayColumns, adds_up, counted_words, marks_of, summarise
from llava_hh.data.coco import existing_file
from llava_hh.files.files import read_json, read_json_lines, sha256, write_json
from llava_hh.files.progress import say
from llava_hh.files.tensors import read_tensors
from llava_hh.metrics.chair.datasets import images_with_objects
from llava_hh.runs.run import make_folder, processes, provenance
from llava_hh.runs.scored import read_scored


@dataclass(frozen=True)
class Part:
    """A part of the images of the attribution in the folder `of`: the flags of these names.

    match: of the lists, as given, not as in `of`.
    captions: the captions_eval_results.json that it was of; list_length: heads in each of the two lists.
    """

    of: Path
    captions: Path
    with_object: Sequence[str] | None
    without_object: Sequence[str] | None
    match: str | None
    list_length: int
    out: Path


def write_part(given: Part) -> Path | None:
    """Write attribution_result.json of a part of the images, and print its first heads.

    Returns: that file; None for a process that is not the first.
    Raises:
        FileNotFoundError: not the folder of a finished attribution.
        ValueError: other captions, or no hallucinated or true word in the images that are kept.
    """
    if not processes().is_main:
        return None
    expected = "the folder of a finished attribution"
    whole = read_json(result := existing_file(given.of / "attribution_result.json", expected))
    refuse_other_files(result, whole)
    log_probs = read_tensors(existing_file(given.of / "ablations.safetensors", expected))
    if digest(hallucinating_captions(given.captions)) != whole["settings"]["captions_sha256"]:
        raise ValueError(f"--captions {given.captions}: other captions than {given.of} was made of")
    rows = [row for _, row in read_json_lines(given.of / "targets.jsonl", expected)]
    objects = {entry["image_id"]: entry["mscoco_gt_words"] for entry in read_scored(given.captions)[0]}
    attributed = {row["image_id"]: objects[row["image_id"]] for row in rows}
    kept = images_with_objects(attributed, given.with_object, given.without_object)
    chosen = np.array([row["image_id"] in kept for row in rows])
    of_part = {name: ArrayColumns(array[chosen]) for name, array in log_probs.items()}
    part = {"with_object": given.with_object, "without_object": given.without_object}
    part["whole"] = sha256(given.of / "targets.jsonl")
    is_sum = adds_up(whole["ablation"], whole["read_out"], whole["settings"].get("renormalise", False))
    marks = marks_of([*compress(rows, chosen)], given.match)
    lists = summarise(marks, of_part, whole["read_out"], given.list_length, is_sum)
    lists |= {"direct": None} if "direct" in whole and "direct" not in lists else {}
    about = {"ablation": whole["ablation"], "settings": {**whole["settings"], **part}, "run": provenance()}
    make_folder(given.out)
    write_json(path := given.out / "attribution_result.json", {**lists, **about})
    first = ", ".join(f"L{layer}H{head}" for layer, head in lists["hal_heads"][:5])
    say(f"{counted_words(lists)}; strongest hallucination heads: {first}\n{path}")
    return path
