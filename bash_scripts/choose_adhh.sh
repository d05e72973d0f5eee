#!/bin/sh
# AD-HH's top_k and threshold, chosen on train2014 images from the whole trade-off between CHAIR_i and recall.
# Needs bash_scripts/attribute.sh. Writes choose_adhh/choice.{json,png,pdf} under the profile's result_path; use it by
# sh bash_scripts/decoding.sh --choice <that choice.json>.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/choose_adhh.sh [any flag of llava_hh.scripts.choose_adhh]
set -eu
cd "$(dirname "$0")/.."
. bash_scripts/profile.sh

launch llava_hh.scripts.choose_adhh \
    --model "$model_path" --image-folder "$coco_path/train2014" --annotations "$coco_path/annotations" \
    --heads "$result_path/train2014/identify_attention_head/attribution_result.json" \
    ${question:+--prompt "$question"} --max-new-tokens "$max_new_tokens" --batch-size "$batch_size" \
    --out "$result_path/choose_adhh" "$@"
