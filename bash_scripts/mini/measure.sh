#!/bin/sh
# The numbers and pictures of README on mini: bash_scripts/reproduce.sh, then copies as results/mini/measured*.
# Usage: sh bash_scripts/mini/measure.sh
set -eu
cd "$(dirname "$0")/../.."
PROFILE=mini
export PROFILE
. bash_scripts/profile.sh
heads="$result_path/train2014/identify_attention_head"
choice="$result_path/choose_adhh"

sh bash_scripts/reproduce.sh
cp "$result_path/val2014/summary.json" results/mini/measured.json
cp "$result_path/val2014/summary_captions.png" results/mini/measured_captions.png
for figure in train2014/attention_bias/attention_bias train2014/attention_inheritance/attention_inheritance \
    train2014/js_divergence/js_divergence train2014/module_influence/module_influence \
    val2014/chair_details/chair_cooccurrence val2014/chair_details/chair_positions \
    val2014/attention_reweight/attention_reweight_after_image val2014/attention_reweight/attention_reweight_image; do
    cp "$result_path/$figure.png" "results/mini/measured_${figure##*/}.png"
done
cp "$result_path/targeted_finetune/val2014/summary.json" results/mini/measured_targeted_finetune.json
cp "$result_path/targeted_finetune/heads_1234/curves.png" results/mini/measured_finetuning_curves.png
for kind in json png; do
    cp "$result_path/baselines/val2014/summary.$kind" "results/mini/measured_baselines.$kind"
done
cp "$result_path/val2014/reference_loss/reference_loss.json" results/mini/measured_reference_loss.json
cp "$choice/choice.png" results/mini/measured_trade_off.png
cp "$heads/head_map.png" results/mini/measured_head_map.png
