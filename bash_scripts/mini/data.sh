#!/bin/sh
# mini's three sets of drawn scenes under dataset/mini, in COCO 2014 layout; the same bytes every time. Half a minute.
# Usage: sh bash_scripts/mini/data.sh [any flag of llava-hh mini]
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. bash_scripts/python.sh
exec "$PYTHON" -m llava_hh mini data "$@"
