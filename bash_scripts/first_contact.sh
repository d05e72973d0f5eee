#!/bin/sh
# First contact with real weights: doctor, the tokens of the prompt, then 20 images of val2014 by greedy decoding, by AD-HH with the
# published heads, and with these heads' attention after the image at 0, as in figure 6a; what agrees with what is known of
# LLaVA-1.5-7B, what differs, and a block to paste. Needs the checkpoint and COCO. About 10 minutes on one GPU, by estimate.
# Writes contact/val2014-20-seed42/contact.md under the profile's result_path.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/first_contact.sh [any flag of llava-hh contact, such as --images 200]
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."
PROFILE=${PROFILE:-llava-v1.5-7b}
. bash_scripts/profile.sh

exec "$PYTHON" -m llava_hh contact --profile "$PROFILE" "$@"
