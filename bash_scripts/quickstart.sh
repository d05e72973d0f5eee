#!/bin/sh
# From nothing to a result on a CPU: environment, mini, its hallucination heads, captions with those heads switched off, and a
# page to look at all of it. The other wrappers go on from there, under mini, the profile that they have without PROFILE.
# About 5 minutes after installation, on 2 cores.
# Usage: sh bash_scripts/quickstart.sh
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."
. bash_scripts/flags.sh
no_flags "$@"
. bash_scripts/environment.sh
PROFILE=mini
export PROFILE PYTHON
. bash_scripts/profile.sh

step() {
    printf '\n== %s of 5: %s\n' "$1" "$2"
}

step 1 "mini, a small model, and the scenes that it is shown"
sh bash_scripts/mini/data.sh
sh bash_scripts/mini/checkpoint.sh
step 2 "the influence of every head on every object word of $attribution_images captions"
sh bash_scripts/attribute.sh
step 3 "$report_images other images, as mini is and with its hallucination heads switched off (AD-HH)"
sh bash_scripts/decoding.sh
step 4 "which objects are hallucinated, and beside which others"
sh bash_scripts/analysis/chair_details.sh
step 5 "where the heads look, and a page of all results"
sh bash_scripts/report.sh
printf '\nOpen %s in a browser: the heads, and captions word by word.\n' "$PWD/$result_path/report.html"
