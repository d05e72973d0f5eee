#!/bin/sh
# Fetches what a profile needs and is not there: the model's weights from the Hugging Face hub, COCO 2014's images and annotations.
# It asks nothing, prints first what it will fetch, and goes on after a kill. HF_TOKEN is the token for gated repositories.
# Usage: PROFILE=llava-v1.5-7b sh bash_scripts/download.sh [any flag of llava-hh download, such as --parts model figures halc]
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."
. bash_scripts/profile.sh
exec "$PYTHON" -m llava_hh download --profile "$PROFILE" "$@"
