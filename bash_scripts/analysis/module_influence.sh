#!/bin/sh
# Module level: influence of whole attention and MLP modules, layer by layer. Needs bash_scripts/attribute.sh; seconds.
# Writes module_influence.json, .png, .pdf in the draw's folder of attribute.sh.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/analysis/module_influence.sh [any flag of llava-hh figure modules]
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. bash_scripts/profile.sh

launch_last llava_hh figure modules --attribution "$head_list" --out "$attributed/module_influence" "$@"
