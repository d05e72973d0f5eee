#!/bin/sh
# From a photo to an answer: what the model says of it greedily and under AD-HH, which heads brought each object word, where
# they look, and at which tokens they were switched off. Prints the name of the page to open. On mini after quickstart.sh:
# half a minute on one core.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/explain.sh photo.jpg [flags of llava-hh explain, such as --truth "car, handbag"]
# The photo comes first. Its path counts from the folder that you are in, others from the repository's root.
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."
. bash_scripts/profile.sh
case ${1:-} in
    '' | /* | -*) ;;
    *)
        photo=${OLDPWD:-.}/$1
        shift
        set -- "$photo" "$@"
        ;;
esac

launch_last llava_hh explain --profile "$PROFILE" "$@"
