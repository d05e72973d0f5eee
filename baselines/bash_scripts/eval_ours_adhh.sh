#!/bin/sh
# AD-HH against greedy decoding, on the images of eval_baselines.sh. Needs bash_scripts/attribute.sh.
# Writes into the folder of eval_baselines.sh and takes finished captions from there; the table is summary_adhh.{json,md,png}.
# Usage: [PROFILE=llava-v1.5-7b] sh baselines/bash_scripts/eval_ours_adhh.sh [any flag of baselines.evaluate]
set -eu
cd "$(dirname "$0")/../.."
. bash_scripts/profile.sh
split=val2014
seed=42
out="$result_path/baselines/$split"

launch baselines.evaluate \
    --methods greedy adhh \
    --model "$model_path" --image-folder "$coco_path/$split" --annotations "$coco_path/annotations" --split "$split" \
    --heads "$result_path/train2014/identify_attention_head/attribution_result.json" \
    --top-k "$top_k" --threshold "$threshold" \
    --limit "$baseline_images" --seed "$seed" --max-new-tokens "$max_new_tokens" --batch-size "$baseline_batch_size" \
    --out "$out" --summary "$out/summary_adhh.json" "$@"
