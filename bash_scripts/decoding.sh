#!/bin/sh
# Greedy decoding, AD-HH, random heads, and random heads that fire as often, on the same val2014 images: one table.
# Needs bash_scripts/attribute.sh. Writes one folder per method, summary.json and a picture of captions under the profile's
# result_path/val2014-<report_images>-seed42; with --limit 60 --seed 7, val2014-60-seed7.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/decoding.sh [any flag of llava-hh evaluate, such as --methods adhh:choice=FILE]
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."
. bash_scripts/profile.sh
split=val2014

launch_last llava_hh evaluate --profile "$PROFILE" \
    --split "$split" --limit "$report_images" --seed "$draw_seed" \
    --methods "adhh:top_k=$top_k,threshold=$threshold" \
        "random:draws=$random_draws,of=adhh" "random:draws=$random_draws,of=adhh,match=rate" \
    --choosing-captions "$attributed/captions_eval_results.json" --choosing-images "$coco_path/train2014" \
    --out "$result_path/$(drawn "$split" "$report_images" "$draw_seed" "$@")" "$@"
