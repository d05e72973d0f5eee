#!/bin/sh
# Removal of the top heads against greedy decoding and random heads on val2014; AD-HH where the profile has removal_adhh.
# Needs bash_scripts/attribute.sh where the profile has no published_heads. Writes a folder per method and
# summary.{json,md} under the profile's result_path/newer_models/val2014.
# Usage: [PROFILE=llama-3.2-11b] sh newer_models/decoding.sh [--released] [any other flag of newer_models.evaluate]
set -eu
cd "$(dirname "$0")/.."
. bash_scripts/profile.sh
split=val2014
seed=42

launch newer_models.evaluate \
    --model "$model_path" --image-folder "$coco_path/$split" --annotations "$coco_path/annotations" --split "$split" \
    --heads "${published_heads:-$result_path/train2014/identify_attention_head/attribution_result.json}" \
    --top-k "$removal_top_k" ${removal_adhh:+--threshold "$threshold"} --random-draws "$random_draws" \
    ${question:+--prompt "$question"} --limit "$removal_images" \
    --seed "$seed" --max-new-tokens "$max_new_tokens" --batch-size "$batch_size" \
    --out "$result_path/newer_models/$split" "$@"
