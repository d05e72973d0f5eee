#!/bin/sh
# The numbers and pictures of README and docs/results.md on mini: bash_scripts/reproduce.sh under the profile mini_full, then copies as
# results/mini/measured*, each picture with the JSON that it was drawn from. And the head list of the quickstart.
# Usage: sh bash_scripts/mini/measure.sh
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
PROFILE=mini_full
export PROFILE
. bash_scripts/profile.sh
no_flags "$@"
decoded="$result_path/$(drawn val2014 "$report_images" "$draw_seed")"
reweighted="$result_path/$(drawn val2014 "$reweight_images" "$draw_seed")/attention_reweight"
finetuned="$result_path/targeted_finetune"
answers="$result_path/heads_of_answers/$(drawn train2014 "$pope_images" "$draw_seed")"
baselines="$result_path/baselines/$(drawn val2014 "$baseline_images" "$draw_seed")"

# keep PATH NAME ENDING...: PATH.ENDING becomes results/mini/measured_NAME.ENDING
keep() {
    from=$1 to=results/mini/measured_$2
    shift 2
    for ending in "$@"; do cp "$from.$ending" "$to.$ending"; done
}

sh bash_scripts/reproduce.sh
PROFILE=mini sh bash_scripts/attribute.sh
# AllPath's rankings, of which `python -m tests.support.shown_tables` makes checkpoints/heads/allpath/mini.json
rank() {
    "$PYTHON" -m llava_hh attribute --profile "$PROFILE" --screen 20 --allpath "$coco_path/annotations" "$@"
}
rank --out "$attributed/allpath"
said="$answers/llava/greedy"
rank --answers "$said/random/answers.jsonl" "$said/popular/answers.jsonl" "$said/adversarial/answers.jsonl" --out "$answers/allpath"
# shellcheck disable=SC2016  # the inner shell expands it, under a profile of its own
cp "$(PROFILE=mini sh -c '. bash_scripts/profile.sh; echo "$head_list"')" results/mini/measured_quickstart.json
cp "$decoded/summary.json" results/mini/measured.json
keep "$decoded/summary_captions" captions png
for figure in attention_bias attention_inheritance js_divergence module_influence; do
    keep "$attributed/$figure/$figure" "$figure" json png
done
keep "$decoded/chair_details/chair_details" chair_details json
keep "$decoded/chair_details/chair_positions" chair_positions png
keep "$result_path/pope/$(drawn val2014 "$pope_images" "$draw_seed")/pope" pope json
for span in after_image image; do
    keep "$reweighted/attention_reweight_$span" "attention_reweight_$span" json png
done
keep "$finetuned/$(drawn val2014 "$finetune_report_images" "$draw_seed")/summary" targeted_finetune json
keep "$finetuned/heads_1234/curves" finetuning_curves png
cp "$finetuned/heads_1234/log.jsonl" results/mini/measured_finetuning_curves.jsonl
keep "$baselines/summary" baselines json png
keep "$baselines/summary_methods" methods json png
keep "$baselines/summary_methods_over_recall" methods_over_recall png
keep "$result_path/pope_methods/$(drawn val2014 "$slow_baseline_images" "$draw_seed")/pope" methods_pope json
keep "$result_path/$(drawn val2014 "$reference_images" "$draw_seed")/reference_loss/reference_loss" reference_loss json
keep "${choice%.json}" trade_off json png
keep "${head_list%/*}/head_map" head_map png
cp "$head_list" results/mini/measured_head_map.json
keep "$attributed/influence_by_source/source_maps" influence_by_source png
cp "$attributed/influence_by_source/attribution_result.json" results/mini/measured_influence_by_source.json
keep "$answers/compare" heads_of_answers json
for format in llava vcd none; do
    cp "$answers/$format/identify_attention_head/attribution_result.json" "results/mini/measured_answers_$format.json"
done
cp "$attributed/allpath/attribution_result.json" results/mini/measured_allpath.json
cp "$answers/allpath/attribution_result.json" results/mini/measured_allpath_pope.json
