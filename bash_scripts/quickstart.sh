#!/bin/sh
# From nothing to a result on a CPU: environment, mini, its hallucination heads, captions with those heads switched off, and a
# page to look at all of it.
# 13 minutes on one core, the installation included.
# Usage: sh bash_scripts/quickstart.sh
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."
. bash_scripts/flags.sh
no_flags "$@"
. bash_scripts/environment.sh
PROFILE=mini_quick
export PROFILE PYTHON
. bash_scripts/profile.sh

sh bash_scripts/mini/data.sh
sh bash_scripts/mini/checkpoint.sh
sh bash_scripts/attribute.sh
sh bash_scripts/decoding.sh --summary results/mini/summary.json
echo "Pictures: results/mini/summary_captions.png, ${head_list%/*}/head_map.png"
sh bash_scripts/report.sh --summary results/mini/summary.json
