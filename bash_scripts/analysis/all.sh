#!/bin/sh
# Figures 3 to 6 (4 where the profile has a base model, 5 where it has checkpoints of a tuning) and the module level, in order;
# then figures.md under the profile's result_path, the pictures with what is seen.
# Needs bash_scripts/attribute.sh (mini: and bash_scripts/mini/steps.sh). Finished parts are not done again.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/analysis/all.sh [flags of the analyses, such as --limit 4]
# A flag goes to all analyses that know it; --limit is the number of captions, and of images in figure 6.
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. bash_scripts/profile.sh
export PROFILE
keep_own "--out --summary" "change result_path of a profile of your own" "$@"
share "figure.modules figure.bias figure.inheritance figure.divergence evaluate figure.factors" "" "$@"

with modules sh bash_scripts/analysis/module_influence.sh
with bias sh bash_scripts/analysis/attention_bias.sh
if [ -n "$base_model" ]; then with inheritance sh bash_scripts/analysis/attention_inheritance.sh; fi
if [ -n "$training_checkpoints" ]; then with divergence sh bash_scripts/analysis/js_div_in_training.sh; fi
with evaluate with factors sh bash_scripts/analysis/attention_reweight_txt.sh
with evaluate with factors sh bash_scripts/analysis/attention_reweight_img.sh

launch_last llava_hh report figures "$result_path"
