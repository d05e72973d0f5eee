#!/bin/sh
# The results of a profile as one page to look at: where the top heads look at object words is recorded, then report.html
# written. Needs bash_scripts/attribute.sh and bash_scripts/decoding.sh; shows whatever else is there.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/report.sh [any flag of llava_hh.scripts.report]
set -eu
cd "$(dirname "$0")/.."
. bash_scripts/profile.sh
top_heads=5
words_of=24  # captions with a hallucination, of each split
heads="$result_path/train2014/identify_attention_head/attribution_result.json"

launch llava_hh.scripts.record_words \
    --model "$model_path" --captions "$result_path/train2014/captions_eval_results.json" \
    --image-folder "$coco_path/train2014" --heads "$heads" --top-k "$top_heads" --limit "$words_of" \
    --out "$result_path/train2014/word_maps"

launch llava_hh.scripts.record_words \
    --model "$model_path" --captions "$result_path/val2014/greedy/captions_eval_results.json" \
    --image-folder "$coco_path/val2014" --heads "$heads" --top-k "$top_heads" --limit "$words_of" \
    --out "$result_path/val2014/greedy/word_maps"

launch llava_hh.scripts.report "$result_path" "$@"
