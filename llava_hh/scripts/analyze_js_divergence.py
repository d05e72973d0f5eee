"""How far the attention of hallucination heads moves in instruction tuning (paper, figure 5).

The same captions are teacher-forced through a reference, the model before tuning, and through every checkpoint. Per
head: the Jensen-Shannon divergence of the two attention rows, averaged over all query positions of prompt and caption.
Writes js_divergence.json and a picture, and one folder per checkpoint, so that a rerun does only what is missing. Two
models are in memory at a time, and their attention maps of one caption.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llava_hh.analysis.js_divergence import BLOCK, check_same_shape, measure_checkpoint, order_by_step, summarise
from llava_hh.attribution.captions import CaptionAttribution, CaptionedSettings, digest, hallucinating_captions
from llava_hh.command_line import SIZE, errors_in_one_line, script_parser
from llava_hh.figures.js_divergence import draw_js_divergence
from llava_hh.figures.paper import JS_DIVERGENCE
from llava_hh.figures.style import picture
from llava_hh.files import write_json
from llava_hh.heads import check_heads, load_heads, published_list
from llava_hh.identity import identify, identify_checkpoint
from llava_hh.models.checkpoint import model_type_of
from llava_hh.models.loading import Loading
from llava_hh.runs import make_folder, processes, provenance, start_run


@dataclass(frozen=True)
class JsSettings(CaptionedSettings):
    """What decides the divergences of one checkpoint from `model`, the reference."""

    checkpoint: dict


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("--reference", type=Path, required=True, help="checkpoint folder of the model before tuning")
    add(
        "--checkpoints",
        type=Path,
        nargs="+",
        required=True,
        help="checkpoint folders; each name ends in its step of tuning",
    )
    add(
        "--heads",
        type=Path,
        required=True,
        help="head list of the tuned model (attribution_result.json), or: published",
    )
    add("--top-k", type=SIZE, default=3, help="heads of each of the two lists")
    add("--captions", type=Path, required=True, help="captions_eval_results.json of the tuned model's greedy captions")
    add("--image-folder", type=Path, required=True, help="folder of the images")
    add("--limit", type=SIZE, default=100, help="use the first so many captions with a hallucination (the paper: 50)")
    add("--paper-values", action="store_true", help="put the paper's values beside ours")
    add("--out", type=Path, required=True, help="result folder")
    return parser


def report(result: dict, path: Path) -> None:
    print(f"Jensen-Shannon divergence, nats, {result['n']} captions (95% intervals):")
    for entry in result["steps"]:
        cells = []
        for name, label in (("hal_heads", "hallucination heads"), ("non_hal_heads", "non-hallucination heads")):
            low, high = entry[name]["interval"]["mean"]
            cells.append(f"{label} {entry[name]['mean']:.4f} ({low:.4f} to {high:.4f})")
        print(f"  step {entry['step']}: {'; '.join(cells)}; median head {entry['percentiles']['50']:.4f}")
    print(path)


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        checkpoints = order_by_step(args.checkpoints)
        shape = check_same_shape(args.reference, list(checkpoints.values()))
        if args.heads == Path("published"):
            args.heads = published_list(model_type_of(args.reference), shape["layers"], shape["heads"])
        heads = {key: load_heads(args.heads, key, args.top_k) for key in ("hal_heads", "non_hal_heads")}
        for own in heads.values():
            check_heads(own, shape["layers"], shape["heads"])
        found = hallucinating_captions(args.captions)
        entries = found[: args.limit]
        make_folder(args.out)

        reference = identify_checkpoint(args.reference) | Loading.from_environment().record()
        # the target words that it finds too check that the ids spell the caption
        source = CaptionAttribution(args.reference, args.image_folder, released=False, max_rows=1)
        described, divergences = {}, {}
        for step, folder in checkpoints.items():
            described[step] = identify_checkpoint(folder)
            own = JsSettings(
                model=reference,
                captions_sha256=digest(found),
                batch_size=BLOCK,
                limit=args.limit,
                image_folder=str(args.image_folder),
                checkpoint=described[step],
            )
            with start_run(args.out / f"step-{step}", own, [entry["image_id"] for entry in entries]) as run:
                measure_checkpoint(source, folder, entries, run)
                if processes().is_main:
                    divergences[step] = np.concatenate([arrays["divergence"] for arrays in run.finished_arrays()])
        if not processes().is_main:
            return
        result = {
            **summarise(divergences, heads),
            **({"paper": JS_DIVERGENCE} if args.paper_values else {}),
            "settings": {
                "reference": reference,
                "captions_sha256": digest(found),
                "limit": args.limit,
                "checkpoints": described,
                "heads": identify(args.heads),
                "top_k": args.top_k,
            },
            "run": provenance(),
        }
        path = args.out / "js_divergence.json"
        write_json(path, result)
        report(result, path)
        with picture(args.out / "js_divergence", args.debug) as out:
            draw_js_divergence(path, out)


if __name__ == "__main__":
    main()
