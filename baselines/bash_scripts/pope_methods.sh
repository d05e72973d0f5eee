#!/bin/sh
# POPE by every method of docs/methods.md, each as its code asks for yes-or-no questions, on val2014 images. Needs
# bash_scripts/attribute.sh, and prepare_vti.sh for VTI (mini's vectors come with the package). Writes a folder per method
# and pope.{json,md} under the profile's result_path/pope_methods/val2014-<slow_baseline_images>-seed42. --limit is the
# number of images.
# Usage: [PROFILE=llava-v1.5-7b] sh baselines/bash_scripts/pope_methods.sh [any flag of llava-hh evaluate]
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. bash_scripts/profile.sh
split=val2014
made=
if [ -f "$vti_vectors" ]; then made=yes; fi

launch_last llava_hh evaluate --profile "$PROFILE" \
    --task pope --split "$split" --limit "$slow_baseline_images" --seed "$draw_seed" --batch-size "$baseline_batch_size" \
    --methods all ${made:+"vti:vectors=\"$vti_vectors\""} "halc_clean:detector=\"$halc_detector\",scorer=\"$halc_scorer\"" \
        "adhh:top_k=$top_k,threshold=$threshold" \
    --out "$result_path/pope_methods/$(drawn "$split" "$slow_baseline_images" "$draw_seed" "$@")" "$@"
