#!/bin/sh
# Removal of the top heads against greedy decoding and random heads on val2014; AD-HH where the profile has removal_adhh.
# Needs bash_scripts/attribute.sh where the profile has no published_heads. Writes a folder per method and
# summary.{json,md} under the profile's result_path/newer_models/val2014-<removal_images>-seed42.
# Usage: [PROFILE=llama-3.2-11b] sh newer_models/decoding.sh [--released] [any other flag of newer_models.evaluate]
set -eu
cd "$(dirname "$0")/.."
. bash_scripts/profile.sh
split=val2014

launch newer_models.evaluate \
    --model "$model_path" --image-folder "$coco_path/$split" --annotations "$coco_path/annotations" --split "$split" \
    --heads "${published_heads:-$head_list}" \
    --top-k "$removal_top_k" ${removal_adhh:+--threshold "$threshold"} --random-draws "$random_draws" \
    ${question:+--prompt "$question"} --limit "$removal_images" \
    --seed "$draw_seed" --max-new-tokens "$max_new_tokens" --batch-size "$batch_size" \
    --out "$result_path/newer_models/$(drawn "$split" "$removal_images" "$draw_seed" "$@")" "$@"
