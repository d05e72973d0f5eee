#!/bin/sh
# TF-HH against greedy decoding, on the images of eval_baselines.sh. Needs bash_scripts/targeted_finetune.sh.
# Writes into the folder of eval_baselines.sh and takes finished captions from there; the table is summary_tfhh.{json,md,png}.
# Usage: [PROFILE=llava-v1.5-7b] [DATASET=nocaps] sh baselines/bash_scripts/eval_ours_tfhh.sh [any flag of llava-hh evaluate]
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. bash_scripts/profile.sh
. baselines/bash_scripts/dataset.sh

last_first=
for seed in $finetune_seeds; do last_first="$seed $last_first"; done
set -- --out "$out" --summary "$out/summary_tfhh.json" "$@"
for seed in $last_first; do set -- "tfhh:path=\"$result_path/targeted_finetune/heads_$seed/model\"" "$@"; done

launch_last llava_hh evaluate --profile "$PROFILE" \
    --dataset "$dataset" --split "$split" --limit "$baseline_images" --seed "$draw_seed" --batch-size "$baseline_batch_size" \
    --methods "$@"
