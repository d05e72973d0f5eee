#!/bin/sh
# AD-HH's top_k and threshold, chosen on train2014 images from the whole trade-off between CHAIR_i and recall.
# Needs bash_scripts/attribute.sh. Writes choice.{json,png,pdf} under the profile's result_path/choose_adhh/
# train2014-150-seed1; use it by sh bash_scripts/decoding.sh --choice <that choice.json>.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/choose_adhh.sh [any flag of llava_hh.scripts.choose_adhh]
set -eu
cd "$(dirname "$0")/.."
. bash_scripts/profile.sh
split=train2014

launch llava_hh.scripts.choose_adhh \
    --model "$model_path" --image-folder "$coco_path/$split" --annotations "$coco_path/annotations" --split "$split" \
    --heads "$head_list" \
    ${question:+--prompt "$question"} --limit "$choice_images" --seed "$choice_seed" \
    --max-new-tokens "$max_new_tokens" --batch-size "$batch_size" \
    --out "$result_path/choose_adhh/$(drawn "$split" "$choice_images" "$choice_seed" "$@")" "$@"
