"""Record where heads look at each object word of captions, for the report page.

The first captions with a hallucination are run once more, teacher-forced, and the attention of the top heads at the
positions that predict object words is kept: one byte for each image token and each token after the image. Writes
word_maps.json and word_maps.safetensors. The report finds them in a folder word_maps beside the captions.
"""

import argparse
from dataclasses import dataclass

from llava_hh.analysis.bias import PARTS
from llava_hh.analysis.word_maps import measure_caption
from llava_hh.attribution.captions import (
    CaptionAttribution,
    CaptionedSettings,
    hallucinating_captions,
    join_arrays,
    refuse_other_model,
)
from llava_hh.command_line import SIZE, errors_in_one_line, script_parser
from llava_hh.files import write_json, write_tensors
from llava_hh.flags import add_caption_flags, add_head_flags, caption_fields, heads_from_flags
from llava_hh.head_lists import heads_with_text
from llava_hh.runs import processes, provenance, start_run


@dataclass(frozen=True)
class WordSettings(CaptionedSettings):
    """What decides word maps, heads among it."""

    heads: list[list[int]]


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    add_caption_flags(parser)
    add = parser.add_argument
    add_head_flags(parser)
    add("--top-k", type=SIZE, default=5, help="how many heads of the list")
    add("--limit", type=SIZE, default=24, help="use the first so many captions with a hallucination")
    add("--batch-size", type=SIZE, default=8, help="captions per block that a rerun skips")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        refuse_other_model(args.captions, args.model)
        found = hallucinating_captions(args.captions, allow_none=True)
        if not found:
            if processes().is_main:
                print(f"{args.captions}: no caption with a hallucinated object, so there are no word maps")
            return
        entries = found[: args.limit]
        attribution = CaptionAttribution(args.model, args.image_folder, released=False, max_rows=0)
        heads = heads_with_text(attribution.lvlm, heads_from_flags(args, attribution.lvlm, args.top_k))
        settings = WordSettings(
            **caption_fields(args, attribution.lvlm, found),
            heads=[list(head) for head in heads],
        )
        with start_run(args.out, settings, [entry["image_id"] for entry in entries]) as run:
            for number, block in run.blocks(entries, args.batch_size, "word maps", attribution.image_of):
                measured = [
                    measure_caption(attribution.lvlm, entry, *attribution.prepare(entry), heads) for entry in block
                ]
                rows, parts = [row for row, _ in measured], [arrays for _, arrays in measured]
                counts = {name: [len(arrays[name]) for arrays in parts] for name in parts[0]}
                run.finish_block(number, block, rows, join_arrays(parts), entries_of=counts)
            if not processes().is_main:
                return
            rows = run.finished_rows()
            write_tensors(args.out / "word_maps.safetensors", join_arrays(run.finished_arrays()))
            result = {"heads": settings.heads, "parts": PARTS, "captions": rows}
            write_json(args.out / "word_maps.json", {**result, "settings": settings.record(), "run": provenance()})
        words = sum(len(row["words"]) for row in rows)
        print(f"{', '.join(map(str, heads))} at {words} object words of {len(rows)} captions")
        print(args.out / "word_maps.json")


if __name__ == "__main__":
    main()
