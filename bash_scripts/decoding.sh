#!/bin/sh
# Greedy decoding, AD-HH and random heads on the same val2014 images: one table. Needs bash_scripts/attribute.sh.
# Writes one folder per method, summary.json and a picture of captions under the profile's
# result_path/val2014-<report_images>-seed42; with --limit 60 --seed 7, val2014-60-seed7.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/decoding.sh [any flag of llava_hh.scripts.compare_decoding]
set -eu
cd "$(dirname "$0")/.."
. bash_scripts/profile.sh
split=val2014

launch llava_hh.scripts.compare_decoding \
    --model "$model_path" --image-folder "$coco_path/$split" --annotations "$coco_path/annotations" --split "$split" \
    --heads "$head_list" \
    --top-k "$top_k" --threshold "$threshold" --random-draws "$random_draws" \
    ${question:+--prompt "$question"} --limit "$report_images" --seed "$draw_seed" \
    --max-new-tokens "$max_new_tokens" --batch-size "$batch_size" \
    --out "$result_path/$(drawn "$split" "$report_images" "$draw_seed" "$@")" "$@"
