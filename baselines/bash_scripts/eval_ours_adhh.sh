#!/bin/sh
# AD-HH against greedy decoding, on the images of eval_baselines.sh. Needs bash_scripts/attribute.sh.
# Writes into the folder of eval_baselines.sh and takes finished captions from there; the table is summary_adhh.{json,md,png}.
# Usage: [PROFILE=llava-v1.5-7b] [DATASET=nocaps] sh baselines/bash_scripts/eval_ours_adhh.sh [any flag of llava-hh evaluate]
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. bash_scripts/profile.sh
. baselines/bash_scripts/dataset.sh

launch_last llava_hh evaluate --profile "$PROFILE" \
    --dataset "$dataset" --split "$split" --limit "$baseline_images" --seed "$draw_seed" --batch-size "$baseline_batch_size" \
    --methods "adhh:top_k=$top_k,threshold=$threshold" --out "$out" --summary "$out/summary_adhh.json" "$@"
