#!/bin/sh
# AD-HH against greedy decoding, on the images of eval_baselines.sh. Needs bash_scripts/attribute.sh.
# Writes into the folder of eval_baselines.sh and takes finished captions from there; the table is summary_adhh.{json,md,png}.
# Usage: [PROFILE=llava-v1.5-7b] [DATASET=nocaps] sh baselines/bash_scripts/eval_ours_adhh.sh [any flag of baselines.evaluate]
set -eu
cd "$(dirname "$0")/../.."
. bash_scripts/profile.sh
. baselines/bash_scripts/dataset.sh

launch baselines.evaluate \
    --methods greedy adhh \
    --model "$model_path" --dataset "$dataset" --split "$split" --image-folder "$image_folder" --annotations "$annotations" \
    --heads "$head_list" \
    --top-k "$top_k" --threshold "$threshold" \
    ${question:+--prompt "$question"} --limit "$baseline_images" --seed "$draw_seed" \
    --max-new-tokens "$max_new_tokens" --batch-size "$baseline_batch_size" \
    --out "$out" --summary "$out/summary_adhh.json" "$@"
