#!/bin/sh
# CHAIR in detail: by category, by what is really in the image, by position in the caption; greedy decoding and AD-HH as compared
# on val2014, side by side. Needs bash_scripts/decoding.sh; seconds.
# Writes chair_details.json and chair_{categories,cooccurrence,positions}.{png,pdf} into chair_details in the draw's folder of
# decoding.sh.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/analysis/chair_details.sh [any flag of llava-hh compare details]
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. bash_scripts/profile.sh
results="$result_path/$(drawn val2014 "$report_images" "$draw_seed")"

launch_last llava_hh compare details "$results/greedy" "$results/adhh-top_k=$top_k-threshold=$threshold-"* --out "$results/chair_details" "$@"
