#!/bin/sh
# Removal of the top heads against greedy decoding and random heads on val2014; AD-HH where the profile has removal_adhh.
# Needs bash_scripts/attribute.sh where the profile has no published_heads. Writes a folder per method and
# summary.{json,md} under the profile's result_path/newer_models/val2014-<removal_images>-seed42.
# Usage: [PROFILE=llama-3.2-11b] sh newer_models/decoding.sh [--released] [any flag of llava-hh evaluate]
# --released: also what the paper's code removes on Llama-3.2-Vision, which is heads of the vision tower.
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."
. bash_scripts/profile.sh
split=val2014

released=
for word in "$@"; do
    shift
    if [ "$word" = --released ]; then released=yes; else set -- "$@" "$word"; fi
done

launch_last llava_hh evaluate --profile "$PROFILE" \
    --heads "${published_heads:-$head_list}" --split "$split" --limit "$removal_images" --seed "$draw_seed" \
    --methods "removal:top_k=$removal_top_k" ${removal_adhh:+"adhh:top_k=$removal_top_k,threshold=$threshold"} \
        ${released:+"removal_released:top_k=$removal_top_k"} "random:draws=$random_draws,of=removal" \
    --out "$result_path/newer_models/$(drawn "$split" "$removal_images" "$draw_seed" "$@")" "$@"
