"""Figure 3: attention mass on image and text, of hallucination heads and others, where an object word is predicted.

Writes attention_bias.json and its figure. The parts of a head's attention are the image, the question after it, the
answer so far, and the rest (system prompt, BOS); they sum to 1.
"""

import argparse
from dataclasses import dataclass

import numpy as np

from llava_hh.analysis.bias import attention_parts, summarise_group, word_rows
from llava_hh.attribution.captions import (
    CaptionAttribution,
    CaptionedSettings,
    hallucinating_captions,
    refuse_other_model,
)
from llava_hh.command_line import SIZE, errors_in_one_line, script_parser
from llava_hh.figures import paper
from llava_hh.figures.attention_bias import draw_attention_bias
from llava_hh.figures.style import picture
from llava_hh.files import write_json
from llava_hh.flags import add_caption_flags, add_head_flags, caption_fields, heads_from_flags
from llava_hh.head_lists import heads_with_text
from llava_hh.runs import processes, provenance, start_run

GROUPS = ("hal_heads", "non_hal_heads")


@dataclass(frozen=True)
class BiasSettings(CaptionedSettings):
    """What decides the attention masses: also of which heads they are."""

    heads: dict[str, list]


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    add_caption_flags(parser)
    add = parser.add_argument
    add_head_flags(parser)
    add("--top-k", type=SIZE, default=20, help="heads of each group")
    add("--limit", type=SIZE, default=100, help="use the first so many captions with a hallucination")
    add("--batch-size", type=SIZE, default=8, help="captions per block that a rerun skips")
    add("--paper-values", action="store_true", help="draw the paper's values for LLaVA-1.5-7B beside ours")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        refuse_other_model(args.captions, args.model)
        found = hallucinating_captions(args.captions)
        entries = found[: args.limit]
        attribution = CaptionAttribution(args.model, args.image_folder, released=False, max_rows=0)
        lvlm = attribution.lvlm
        groups = {group: heads_with_text(lvlm, heads_from_flags(args, lvlm, args.top_k, group)) for group in GROUPS}
        settings = BiasSettings(
            **caption_fields(args, lvlm, found),
            heads={group: [list(head) for head in heads] for group, heads in groups.items()},
        )
        both = [head for heads in groups.values() for head in heads]
        with start_run(args.out, settings, [entry["image_id"] for entry in entries]) as run:
            for number, block in run.blocks(entries, args.batch_size, "attention bias", attribution.image_of):
                rows, parts, rows_of = [], [], []
                for entry in block:
                    targets, positions, batch = attribution.prepare(entry)
                    rows += word_rows(entry["image_id"], targets)
                    rows_of.append(len(targets))
                    parts += [part.numpy() for part in attention_parts(lvlm, batch, [positions], both)]
                run.finish_block(number, block, rows, {"parts": np.concatenate(parts)}, rows_of=rows_of)
            if not processes().is_main:
                return
            rows = run.finished_rows()
            parts = np.concatenate([arrays["parts"] for arrays in run.finished_arrays()])
            image_ids = np.array([row["image_id"] for row in rows])
            split = dict(zip(GROUPS, np.split(parts, [len(groups["hal_heads"])], axis=1), strict=True))
            result = {
                "groups": {group: summarise_group(split[group], rows, image_ids, groups[group]) for group in GROUPS},
                "n_words": len(rows),
                "n_captions": len(entries),
                **({"paper": paper.ATTENTION_BIAS} if args.paper_values else {}),
            }
            path = args.out / "attention_bias.json"
            write_json(path, {**result, "settings": settings.record(), "run": provenance()})
        for group, summary in result["groups"].items():
            means = {part: summary["all"][part]["mean"] for part in ("after_image_mass", "image_mass")}
            print(f"{group}: after the image {means['after_image_mass']:.3f}, image {means['image_mass']:.3f}")
        print(path)
        with picture(args.out / "attention_bias", args.debug) as out:
            draw_attention_bias(path, out)


if __name__ == "__main__":
    main()
