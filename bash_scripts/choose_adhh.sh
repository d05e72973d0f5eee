#!/bin/sh
# AD-HH's top_k and threshold, chosen on train2014 images from the whole trade-off between CHAIR_i and recall.
# Needs bash_scripts/attribute.sh. Writes choice.{json,png,pdf} under the profile's result_path/choose_adhh/
# train2014-<choice_images>-seed1; use it by sh bash_scripts/decoding.sh --methods adhh:choice=<that choice.json>.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/choose_adhh.sh [any flag of llava-hh evaluate]
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."
. bash_scripts/profile.sh
split=train2014
numbers_of_heads="1 2 3 5"
thresholds="0.4 0.6 0.8 0.9 0.92 0.95"
recall_loss=0.03   # most recall to give up, as a fraction
repeats_rise=0.02  # largest rise of the share of mentions that repeat one

methods=
for heads in $numbers_of_heads; do
    for mass in $thresholds; do methods="$methods adhh:top_k=$heads,threshold=$mass"; done
done

# shellcheck disable=SC2086  # methods is a list
launch_last llava_hh evaluate --profile "$PROFILE" \
    --split "$split" --limit "$choice_images" --seed "$choice_seed" --methods $methods \
    --choose --recall-loss "$recall_loss" --repeats-rise "$repeats_rise" \
    --out "$result_path/choose_adhh/$(drawn "$split" "$choice_images" "$choice_seed" "$@")" "$@"
