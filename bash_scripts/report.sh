#!/bin/sh
# The results of a profile as one page to look at: where the top heads look at object words is recorded, then report.html
# written. Needs bash_scripts/attribute.sh and bash_scripts/decoding.sh; shows whatever else is there.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/report.sh [any flag of llava_hh.scripts.report]
set -eu
cd "$(dirname "$0")/.."
. bash_scripts/profile.sh
top_heads=5
words_of=24  # captions with a hallucination, of each split
decoded="$result_path/$(drawn val2014 "$report_images" "$draw_seed")"

launch llava_hh.scripts.record_words \
    --model "$model_path" --captions "$attributed/captions_eval_results.json" \
    --image-folder "$coco_path/train2014" --heads "$head_list" --top-k "$top_heads" --limit "$words_of" \
    --out "$attributed/word_maps"

launch llava_hh.scripts.record_words \
    --model "$model_path" --captions "$decoded/greedy/captions_eval_results.json" \
    --image-folder "$coco_path/val2014" --heads "$head_list" --top-k "$top_heads" --limit "$words_of" \
    --out "$decoded/greedy/word_maps"

launch llava_hh.scripts.report "$result_path" --first "$attributed" "$decoded" "$@"
