#!/bin/sh
# Figure 6b: CHAIR_i as hallucination heads attend more to the image; beside random heads.
# Needs bash_scripts/attribute.sh. Writes attention_reweight_image.json, .png, .pdf under the profile's
# result_path/val2014-<reweight_images>-seed42/attention_reweight; greedy captions are shared with the other span.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/analysis/attention_reweight_img.sh [flags of evaluate and figure factors]
# A flag goes to those of the two that know it.
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. bash_scripts/profile.sh
span=image
alphas="1.5 2.0 2.5 3.0 3.5"  # 1.0 is greedy decoding, which is always there
. bash_scripts/analysis/attention_reweight.sh
