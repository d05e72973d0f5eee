#!/bin/sh
# Checks in under a minute that everything a profile's scripts need is there; a line per check, status 1 if one failed.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/doctor.sh [any flag of llava-hh doctor]
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."
. bash_scripts/profile.sh
exec "$PYTHON" -m llava_hh doctor --profile "$PROFILE" "$@"
