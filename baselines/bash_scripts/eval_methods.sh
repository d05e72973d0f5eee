#!/bin/sh
# Every method of docs/methods.md once, on the images of eval_baselines.sh: one table. Needs bash_scripts/attribute.sh,
# and prepare_vti.sh for VTI (mini's vectors come with the package).
# What the model cannot have is left out by name; one that changed nothing is named below the table.
# Writes into the folder of eval_baselines.sh and takes finished captions from there; the table is
# summary_methods.{json,md,png}, and summary_methods_over_recall.png is a picture of it. --limit is the number of images.
# Usage: [PROFILE=llava-v1.5-7b] [DATASET=nocaps] sh baselines/bash_scripts/eval_methods.sh [any flag of llava-hh evaluate]
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. bash_scripts/profile.sh
. baselines/bash_scripts/dataset.sh
made=
if [ -f "$vti_vectors" ]; then made=yes; fi

launch_last llava_hh evaluate --profile "$PROFILE" \
    --dataset "$dataset" --split "$split" --limit "$baseline_images" --seed "$draw_seed" --batch-size "$baseline_batch_size" \
    --methods all ${made:+"vti:vectors=\"$vti_vectors\""} "opera:limit=$slow_baseline_images" \
        "halc_clean:detector=\"$halc_detector\",scorer=\"$halc_scorer\",limit=$slow_baseline_images" \
        "adhh:top_k=$top_k,threshold=$threshold" \
    --out "$out" --summary "$out/summary_methods.json" "$@"
