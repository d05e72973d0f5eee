#!/bin/sh
# The numbers and pictures of README on mini: bash_scripts/reproduce.sh, then copies as results/mini/measured*.
# Usage: sh bash_scripts/mini/measure.sh
set -eu
cd "$(dirname "$0")/../.."
PROFILE=mini
export PROFILE
. bash_scripts/profile.sh
no_flags "$@"
decoded="$result_path/$(drawn val2014 "$report_images" "$draw_seed")"
reweighted="$result_path/$(drawn val2014 "$reweight_images" "$draw_seed")/attention_reweight"
finetuned="$result_path/targeted_finetune"
baselines="$result_path/baselines/$(drawn val2014 "$baseline_images" "$draw_seed")"

sh bash_scripts/reproduce.sh
cp "$decoded/summary.json" results/mini/measured.json
cp "$decoded/summary_captions.png" results/mini/measured_captions.png
for figure in attention_bias attention_inheritance js_divergence module_influence; do
    cp "$attributed/$figure/$figure.png" "results/mini/measured_$figure.png"
done
for picture in "$decoded/chair_details/chair_cooccurrence.png" "$decoded/chair_details/chair_positions.png" \
    "$reweighted/attention_reweight_after_image.png" "$reweighted/attention_reweight_image.png"; do
    cp "$picture" "results/mini/measured_${picture##*/}"
done
cp "$finetuned/$(drawn val2014 "$finetune_report_images" "$draw_seed")/summary.json" results/mini/measured_targeted_finetune.json
cp "$finetuned/heads_1234/curves.png" results/mini/measured_finetuning_curves.png
for kind in json png; do
    cp "$baselines/summary.$kind" "results/mini/measured_baselines.$kind"
done
cp "$result_path/$(drawn val2014 "$reference_images" "$draw_seed")/reference_loss/reference_loss.json" results/mini/measured_reference_loss.json
cp "${choice%.json}.png" results/mini/measured_trade_off.png
cp "${head_list%/*}/head_map.png" results/mini/measured_head_map.png
