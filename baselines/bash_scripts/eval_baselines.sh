#!/bin/sh
# Greedy decoding, VCD, DoLa, PAI and AD-HH on the same val2014 images: one table. Needs bash_scripts/attribute.sh.
# Writes a folder per method and summary.{json,md,png} under the profile's result_path/baselines/val2014.
# Usage: [PROFILE=llava-v1.5-7b] sh baselines/bash_scripts/eval_baselines.sh [any flag of baselines.evaluate]
set -eu
cd "$(dirname "$0")/../.."
. bash_scripts/profile.sh
split=val2014
seed=42

launch baselines.evaluate \
    --methods greedy vcd_paper dola_repo pai adhh \
    --model "$model_path" --image-folder "$coco_path/$split" --annotations "$coco_path/annotations" --split "$split" \
    --heads "$result_path/train2014/identify_attention_head/attribution_result.json" \
    --top-k "$top_k" --threshold "$threshold" \
    --limit "$baseline_images" --seed "$seed" --max-new-tokens "$max_new_tokens" --batch-size "$baseline_batch_size" \
    --out "$result_path/baselines/$split" "$@"
