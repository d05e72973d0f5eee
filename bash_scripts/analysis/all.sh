#!/bin/sh
# Figures 3 to 6 (4 where the profile has a base model, 5 where it has checkpoints of a tuning) and the module level, in order; then figures.md under the
# profile's result_path, the pictures with what is seen.
# Needs bash_scripts/attribute.sh (mini: and bash_scripts/mini/steps.sh). Finished parts are not done again.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/analysis/all.sh [a flag that all analyses know, such as --limit 4]
set -eu
cd "$(dirname "$0")/../.."
. bash_scripts/profile.sh
export PROFILE
keep_own --out "change result_path of a profile of your own" "$@"
sh bash_scripts/analysis/module_influence.sh
for figure in attention_bias ${base_model:+attention_inheritance} ${training_checkpoints:+js_div_in_training} attention_reweight_txt \
    attention_reweight_img; do
    sh "bash_scripts/analysis/$figure.sh" "$@"
done

launch llava_hh.scripts.write_figures_page --results "$result_path"
