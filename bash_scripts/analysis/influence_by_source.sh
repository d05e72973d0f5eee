#!/bin/sh
# What each head does by reading the image, the text after it, and the answer so far; and its direct effect: the influence of
# the same words as in attribute.sh, with a map for each part. Needs bash_scripts/attribute.sh; three to five times its time.
# Writes influence_by_source/{attribution_result.json,source_maps.png,head_map.png} in the draw's folder of attribute.sh.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/analysis/influence_by_source.sh [any flag of llava-hh attribute, such as --match object]
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. bash_scripts/profile.sh

launch_last llava_hh attribute --profile "$PROFILE" --by-source --direct \
    --captions "$attributed/captions_eval_results.json" --image-folder "$coco_path/train2014" \
    ${attribution_captions:+--limit "$attribution_captions"} --list-length "$list_length" --out "$attributed/influence_by_source" "$@"
