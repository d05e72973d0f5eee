#!/bin/sh
# Greedy decoding, VCD, DoLa, PAI, OPERA, HALC and AD-HH on the same images (COCO's val2014, or nocaps' out-domain): one table.
# What the model cannot have (OPERA and PAI on Llama 3.2, OPERA on Gemma 3) is left out by name.
# Needs bash_scripts/attribute.sh. Writes a folder per method and summary.{json,md,png} under the profile's
# result_path/baselines/val2014-<baseline_images>-seed42, or nocaps_out-domain-... there.
# Usage: [PROFILE=llava-v1.5-7b] [DATASET=nocaps] sh baselines/bash_scripts/eval_baselines.sh [any flag of baselines.evaluate]
set -eu
cd "$(dirname "$0")/../.."
. bash_scripts/profile.sh
. baselines/bash_scripts/dataset.sh

launch baselines.evaluate \
    --methods greedy vcd_paper dola_repo pai opera halc_clean adhh \
    --model "$model_path" --dataset "$dataset" --split "$split" --image-folder "$image_folder" --annotations "$annotations" \
    --heads "$head_list" \
    --top-k "$top_k" --threshold "$threshold" \
    ${question:+--prompt "$question"} --limit "$baseline_images" --limit-of opera="$slow_baseline_images" \
        halc_clean="$slow_baseline_images" \
    --set halc_clean.detector="$halc_detector" halc_clean.scorer="$halc_scorer" \
    --seed "$draw_seed" --max-new-tokens "$max_new_tokens" --batch-size "$baseline_batch_size" \
    --out "$out" "$@"
