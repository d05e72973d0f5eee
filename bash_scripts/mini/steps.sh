#!/bin/sh
# mini's checkpoints of its instruction tuning, checkpoints/mini/steps/step-{000,140,280,420,560}: 540 MB each, some minutes.
# step-000 is the start of tuning: the language model untouched, the projector fitted anew from the same seed.
# Usage: sh bash_scripts/mini/steps.sh [any flag of llava-hh mini]
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. bash_scripts/python.sh
"$PYTHON" -m llava_hh mini base "$@"
exec "$PYTHON" -m llava_hh mini steps "$@"
