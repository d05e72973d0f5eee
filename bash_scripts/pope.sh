#!/bin/sh
# POPE: yes-or-no questions about objects (random, popular, adversarial), by greedy decoding and AD-HH, on val2014 images.
# Needs bash_scripts/attribute.sh. Writes a folder per method and pope.{json,md} under the profile's
# result_path/pope/val2014-<pope_images>-seed42.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/pope.sh [any flag of llava-hh evaluate, such as --methods adhh vcd_paper]
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."
. bash_scripts/profile.sh
split=val2014
suffix=llava  # what follows the question: that of LLaVA-1.5's evaluation; vcd; none

launch_last llava_hh evaluate --profile "$PROFILE" \
    --task pope --suffix "$suffix" --split "$split" --limit "$pope_images" --seed "$draw_seed" \
    --methods "adhh:top_k=$top_k,threshold=$threshold" \
    --out "$result_path/pope/$(drawn "$split" "$pope_images" "$draw_seed" "$@")" "$@"
