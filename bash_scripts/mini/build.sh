#!/bin/sh
# mini's weights from nothing: data, vision tower (2 minutes), projector and LoRA tuning (40 to 50 minutes), checkpoint. On one core.
# Skips what is there; tuning goes on from its last saved step. To train anew, give new folders: --weights, --model.
# Usage: sh bash_scripts/mini/build.sh [any flag of llava-hh mini]
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. bash_scripts/python.sh
for stage in data base vision tune assemble; do
    "$PYTHON" -m llava_hh mini "$stage" "$@"
done
