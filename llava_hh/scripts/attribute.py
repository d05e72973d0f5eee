"""Find hallucination heads: the exact influence of every head on hallucinated and true object words (paper).

For each object word of the captions with a hallucination, every head is zeroed at the position that predicts the word's
first token, one head at a time, and the drop of the token's probability is the head's influence. Heads are ranked by
their mean influence on hallucinated words minus that on true ones. Writes attribution_result.json (both head lists,
scores), targets.jsonl and influence.safetensors (every word, every head), and a heat map.
"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from llava_hh.attribution.ablation import ablate_every_head
from llava_hh.attribution.contrast import contrastive_influence, influence, rank_heads
from llava_hh.attribution.targets import Target, find_targets
from llava_hh.command_line import errors_in_one_line, script_parser
from llava_hh.figures.head_map import draw_head_map
from llava_hh.generation import load_image
from llava_hh.models.lvlm import Lvlm, load_lvlm
from llava_hh.runs import Run, describe_model, provenance, read_json, start_run, write_json, write_tensors


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="checkpoint folder")
    add("--captions", type=Path, required=True, help="captions_eval_results.json of this model's greedy captions")
    add("--image-folder", type=Path, required=True, help="folder of the images")
    add("--out", type=Path, required=True, help="result folder")
    add("--limit", type=int, help="use the first so many captions with a hallucination; all by default")
    add("--list-length", type=int, default=30, help="heads in each of the two lists")
    add("--max-rows", type=int, default=4096, help="most ablated rows at once; bounds the memory")
    add("--batch-size", type=int, default=8, help="captions per block that a rerun skips")
    return parser


def hallucinating_captions(path: Path) -> list[dict]:
    """The entries of a result file with at least one hallucinated object, in order."""
    chosen = [entry for entry in read_json(path)["sentences"] if entry["metrics"]["CHAIRs"]]
    if not chosen:
        raise ValueError(f"--captions {path}: no caption with a hallucinated object")
    if "token_ids" not in chosen[0]:
        raise ValueError(f"{path}: its captions have no token_ids; evaluate the captions.jsonl that caption.py writes")
    return chosen


def digest(entries: list[dict]) -> str:
    """A hash of what attribution reads of captions; the date in their file may change."""
    read = [(e["image"], e["prompt"], e["token_ids"], sorted(e["mscoco_gt_words"])) for e in entries]
    return hashlib.sha256(json.dumps(read).encode()).hexdigest()


def measure(
    lvlm: Lvlm, entry: dict, image_folder: Path, max_rows: int
) -> tuple[list[Target], torch.Tensor, torch.Tensor]:
    """Targets of one caption, their clean probabilities (target,) and ablated ones (target, layer, head)."""
    targets = find_targets(lvlm.tokenizer, entry["token_ids"], set(entry["mscoco_gt_words"]))
    image = load_image(image_folder / entry["image"])
    batch = lvlm.encode([image], [entry["prompt"]], [entry["token_ids"]])
    positions = [batch.response_start[0] + target.index - 1 for target in targets]
    ids = [target.token_id for target in targets]
    return targets, *ablate_every_head(lvlm.model, batch.inputs, positions, ids, max_rows=max_rows)


def run_blocks(lvlm: Lvlm, entries: list[dict], run: Run, args: argparse.Namespace) -> None:
    for number, block in run.blocks(entries, args.batch_size, "attribution"):
        rows, clean, ablated = [], [], []
        for entry in block:
            targets, clean_probs, ablated_probs = measure(lvlm, entry, args.image_folder, args.max_rows)
            rows += [
                {"image_id": entry["image_id"], **target.row(), "clean_prob": prob}
                for target, prob in zip(targets, clean_probs.tolist(), strict=True)
            ]
            clean.append(clean_probs.cpu().numpy())
            ablated.append(ablated_probs.cpu().numpy())
        influences = influence(np.concatenate(clean), np.concatenate(ablated))
        run.finish_block(number, block, rows, {"influence": influences})
    run.drop_blocks_after(-(-len(entries) // args.batch_size))
    run.write_rows("targets.jsonl")


def summarise(rows: list[dict], influences: np.ndarray, list_length: int) -> dict:
    hallucinated = np.array([row["hallucinated"] for row in rows])
    contrast = contrastive_influence(influences, hallucinated)
    best, worst = rank_heads(contrast, list_length)
    return {
        "hal_heads": [list(head) for head in best],
        "non_hal_heads": [list(head) for head in worst],
        "contrastive_influence": contrast.tolist(),
        "influence_hallucinated": influences[hallucinated].mean(0, dtype=np.float64).tolist(),
        "influence_non_hallucinated": influences[~hallucinated].mean(0, dtype=np.float64).tolist(),
        "n_hallucinated_tokens": int(hallucinated.sum()),
        "n_non_hallucinated_tokens": int((~hallucinated).sum()),
        "n_captions": len({row["image_id"] for row in rows}),
    }


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        found = hallucinating_captions(args.captions)
        entries = found[: args.limit]
        settings = {
            "model": describe_model(args.model),
            "captions_sha256": digest(found),
            "image_folder": str(args.image_folder),
            "limit": args.limit,
            "batch_size": args.batch_size,
        }
        with start_run(args.out, settings, [entry["image_id"] for entry in entries]) as run:
            run_blocks(load_lvlm(args.model), entries, run, args)
            rows = run.finished_rows()
            influences = np.concatenate([arrays["influence"] for arrays in run.finished_arrays()])
            write_tensors(args.out / "influence.safetensors", {"influence": influences})
            result = summarise(rows, influences, args.list_length)
            write_json(args.out / "attribution_result.json", {**result, "settings": settings, "run": provenance()})
            draw_head_map(args.out / "attribution_result.json", args.out / "head_map")
        words = f"{result['n_hallucinated_tokens']} hallucinated and {result['n_non_hallucinated_tokens']} true"
        print(f"{words} object words in {result['n_captions']} captions; strongest hallucination heads:")
        for layer, head in result["hal_heads"][:5]:
            print(f"  L{layer}H{head}  {result['contrastive_influence'][layer][head]:+.4f}")
        print(f"{args.out / 'attribution_result.json'}\n{args.out / 'head_map.png'}")


if __name__ == "__main__":
    main()
