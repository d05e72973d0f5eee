#!/bin/sh
# The vectors that VTI steers the profile's model by, of 70 train2014 images: about a minute on mini. Writes
# vti/vectors.safetensors under the profile's result_path; eval_methods.sh and pope_methods.sh take it from there.
# With the file of VTI's authors: --pairs hallucination_vti_demos.jsonl.
# Usage: [PROFILE=llava-v1.5-7b] sh baselines/bash_scripts/prepare_vti.sh [any flag of llava-hh prepare-vti]
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. bash_scripts/profile.sh

exec "$PYTHON" -m llava_hh prepare-vti --profile "$PROFILE" --out "$vti_vectors" "$@"
