#!/bin/sh
# The numbers and pictures of README on mini: attribution, the choice of top_k and threshold on train2014, then 500 val2014
# images under greedy decoding, AD-HH and 5 draws of random heads; figures 3 to 6; TF-HH; baselines. Unattended, no time limit; goes on
# after a kill. Writes results/mini/measured.json and its pictures.
# Usage: sh bash_scripts/mini/measure.sh
set -eu
cd "$(dirname "$0")/../.."
PROFILE=mini
export PROFILE
. bash_scripts/profile.sh
heads="$result_path/train2014/identify_attention_head"
choice="$result_path/choose_adhh"

sh bash_scripts/mini/data.sh
sh bash_scripts/mini/checkpoint.sh
sh bash_scripts/attribute.sh
launch llava_hh.scripts.choose_adhh \
    --model "$model_path" --image-folder "$coco_path/train2014" --annotations "$coco_path/annotations" \
    --heads "$heads/attribution_result.json" --batch-size "$batch_size" --out "$choice"
sh bash_scripts/decoding.sh --choice "$choice/choice.json" --summary results/mini/measured.json
sh bash_scripts/mini/steps.sh
sh bash_scripts/analysis/all.sh
sh bash_scripts/targeted_finetune.sh
sh baselines/bash_scripts/eval_baselines.sh
sh bash_scripts/report.sh --summary results/mini/measured.json
for figure in train2014/attention_bias/attention_bias train2014/attention_inheritance/attention_inheritance \
    train2014/js_divergence/js_divergence train2014/module_influence/module_influence \
    val2014/attention_reweight/attention_reweight_after_image val2014/attention_reweight/attention_reweight_image; do
    cp "$result_path/$figure.png" "results/mini/measured_${figure##*/}.png"
done
cp "$result_path/targeted_finetune/val2014/summary.json" results/mini/measured_targeted_finetune.json
cp "$result_path/targeted_finetune/heads_1234/curves.png" results/mini/measured_finetuning_curves.png
for kind in json png; do
    cp "$result_path/baselines/val2014/summary.$kind" "results/mini/measured_baselines.$kind"
done
cp "$choice/choice.png" results/mini/measured_trade_off.png
cp "$heads/head_map.png" results/mini/measured_head_map.png
