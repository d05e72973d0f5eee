#!/bin/sh
# POPE: yes-or-no questions about objects (random, popular, adversarial), by greedy decoding and AD-HH, on val2014 images.
# Needs bash_scripts/attribute.sh. Writes a folder per method and pope.{json,md} under the profile's
# result_path/pope/val2014-<pope_images>-seed42.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/pope.sh [any flag of baselines.evaluate_pope, such as --methods greedy adhh vcd_paper]
set -eu
cd "$(dirname "$0")/.."
. bash_scripts/profile.sh
split=val2014
suffix=llava  # what follows the question: that of LLaVA-1.5's evaluation; vcd; none

launch baselines.evaluate_pope \
    --methods greedy adhh \
    --model "$model_path" --image-folder "$coco_path/$split" --annotations "$coco_path/annotations" --split "$split" \
    --heads "$head_list" \
    --top-k "$top_k" --threshold "$threshold" \
    ${pope_questions:+--questions "$pope_questions"} --suffix "$suffix" --limit "$pope_images" --seed "$draw_seed" \
    --batch-size "$batch_size" --out "$result_path/pope/$(drawn "$split" "$pope_images" "$draw_seed" "$@")" "$@"
