#!/bin/sh
# Greedy decoding, VCD, DoLa, PAI, OPERA, HALC and AD-HH on the same images (COCO's val2014, or nocaps' out-domain): one table.
# What the model cannot have (OPERA and PAI on Llama 3.2, OPERA on Gemma 3) is left out by name.
# Needs bash_scripts/attribute.sh. Writes a folder per method and summary.{json,md,png} under the profile's
# result_path/baselines/val2014-<baseline_images>-seed42, or nocaps_out-domain-... there.
# Usage: [PROFILE=llava-v1.5-7b] [DATASET=nocaps] sh baselines/bash_scripts/eval_baselines.sh [any flag of llava-hh evaluate]
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. bash_scripts/profile.sh
. baselines/bash_scripts/dataset.sh

launch_last llava_hh evaluate --profile "$PROFILE" \
    --dataset "$dataset" --split "$split" --limit "$baseline_images" --seed "$draw_seed" --batch-size "$baseline_batch_size" \
    --methods vcd_paper dola_repo pai "opera:limit=$slow_baseline_images" \
        "halc_clean:detector=\"$halc_detector\",scorer=\"$halc_scorer\",limit=$slow_baseline_images" \
        "adhh:top_k=$top_k,threshold=$threshold" \
    --out "$out" "$@"
