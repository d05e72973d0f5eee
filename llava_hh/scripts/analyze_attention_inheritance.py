"""Figure 4: is the attention of hallucination heads from text to text still that of the base language model?

The model sees its own captions with their images, the base language model the same tokens without the image. Compared
is, head by head, attention among the tokens after the image, by the cosine of the two blocks. Writes
attention_inheritance.json and its figure.

Differs: the released script takes the first head of each list (top_k 1) and blocks that are not aligned by token.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llava_hh.analysis.inheritance import (
    check_vocabulary,
    load_base,
    split_heads,
    summarise,
    text_blocks,
    tokens_per_cell,
)
from llava_hh.attribution.captions import (
    CaptionAttribution,
    CaptionedSettings,
    hallucinating_captions,
    refuse_other_model,
)
from llava_hh.blocks import Run
from llava_hh.command_line import SIZE, errors_in_one_line, script_parser
from llava_hh.figures import paper
from llava_hh.figures.attention_inheritance import draw_attention_inheritance
from llava_hh.figures.style import picture
from llava_hh.files import write_json
from llava_hh.flags import add_caption_flags, add_head_flags, caption_fields, heads_from_flags
from llava_hh.heads import Head
from llava_hh.identity import identify_checkpoint
from llava_hh.runs import processes, provenance, start_run

RANKED = ("hal_heads", "non_hal_heads")


@dataclass(frozen=True)
class InheritanceSettings(CaptionedSettings):
    """What decides the similarities: also the base model, and of which heads examples are kept."""

    base_model: dict
    example_heads: list[list[int]]


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    add_caption_flags(parser)
    add = parser.add_argument
    add("--base-model", type=Path, required=True, help="folder of the language model that --model was tuned from")
    add_head_flags(parser)
    add("--top-k", type=SIZE, default=20, help="heads of each list; another number is read off the finished run")
    add("--limit", type=SIZE, default=100, help="use the first so many captions with a hallucination")
    add("--batch-size", type=SIZE, default=8, help="captions per block that a rerun skips; they run one by one")
    add("--paper-values", action="store_true", help="draw the paper's values for LLaVA-1.5-7B beside ours")
    return parser


def examples_of(run: Run, similarity: np.ndarray, heads: list[Head]) -> dict:
    """Heat maps of the first caption, JSON-ready: of the first head of each list, the model's and the base's."""
    row = run.finished_rows()[0]
    maps = next(run.finished_arrays())["heat_maps"]  # head model row column
    return {
        group: {
            "head": list(head),
            **row,
            "tokens_per_cell": tokens_per_cell(row["n_tokens"]),
            "similarity": float(similarity[0, *head]),
            "lvlm": own.round(6).tolist(),
            "base": inherited.round(6).tolist(),
        }
        for group, head, (own, inherited) in zip(RANKED, heads, maps.astype(np.float64), strict=True)
    }


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        refuse_other_model(args.captions, args.model)
        found = hallucinating_captions(args.captions)
        entries = found[: args.limit]
        attribution = CaptionAttribution(args.model, args.image_folder, released=False, max_rows=0)
        lvlm = attribution.lvlm
        groups = split_heads(
            (lvlm.n_layers, lvlm.n_heads), *(heads_from_flags(args, lvlm, args.top_k, group) for group in RANKED)
        )
        base = load_base(args.base_model, lvlm)
        check_vocabulary(lvlm, base, entries)
        firsts = [groups[group][0] for group in RANKED]
        settings = InheritanceSettings(
            **caption_fields(args, lvlm, found),
            base_model=identify_checkpoint(args.base_model),
            example_heads=[list(head) for head in firsts],
        )
        with start_run(args.out, settings, [entry["image_id"] for entry in entries]) as run:
            for number, block in run.blocks(entries, args.batch_size, "attention inheritance", attribution.image_of):
                rows, similarity, heat_maps = [], [], None
                for entry in block:
                    blocks = text_blocks(lvlm.model, base, attribution.prepare(entry)[-1])
                    rows.append({"image_id": entry["image_id"], "n_tokens": blocks.n_tokens})
                    similarity.append(blocks.similarity().numpy())
                    if heat_maps is None:  # each block's first caption; the run's first one is the example
                        heat_maps = blocks.heat_maps(firsts).numpy()
                run.finish_block(
                    number, block, rows, {"similarity": np.stack(similarity)}, of_block={"heat_maps": heat_maps}
                )
            if not processes().is_main:
                return
            similarity = np.concatenate([arrays["similarity"] for arrays in run.finished_arrays()])
            result = {
                **summarise(similarity, groups),
                "examples": examples_of(run, similarity, firsts),
                "n_captions": len(similarity),
                **({"paper": paper.INHERITANCE} if args.paper_values else {}),
                "settings": {**settings.record(), "top_k": args.top_k},
                "run": provenance(),
            }
            path = args.out / "attention_inheritance.json"
            write_json(path, result)
        for group, summary in result["groups"].items():
            low, high = summary["interval"]["mean"]
            count = f"{len(summary['heads'])} {group}"
            print(f"{count}: similarity {summary['mean']:.3f} ({low:.3f} to {high:.3f}), {len(similarity)} captions")
        print(path)
        with picture(args.out / "attention_inheritance", args.debug) as out:
            draw_attention_inheritance(path, out)


if __name__ == "__main__":
    main()
