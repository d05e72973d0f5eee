#!/bin/sh
# Hallucination heads: captions of train2014 images, their CHAIR, and the exact influence of every head on every object word.
# Writes captions and identify_attention_head/{attribution_result.json,head_map.png} under the profile's
# result_path/train2014-<attribution_images>-seed42.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/attribute.sh [flags of caption, score chair and attribute]
# A flag goes to those of the three that know it; --limit, --batch-size, --captions and --out go to attribute (--limit is the
# number of captions to attribute). caption:--limit 100 is the number of images to caption.
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."
. bash_scripts/profile.sh
split=train2014
share "caption score.chair attribute" "attribute: --limit --batch-size --captions --out" "$@"
captioned="$result_path/$(with caption drawn "$split" "$attribution_images" "$draw_seed")"

with caption launch llava_hh caption --profile "$PROFILE" \
    --split "$split" --limit "$attribution_images" --seed "$draw_seed" --out "$captioned"

with chair launch llava_hh score chair \
    --captions "$captioned/captions.jsonl" --annotations "$coco_path/annotations"

with attribute launch_last llava_hh attribute --profile "$PROFILE" \
    --captions "$captioned/captions_eval_results.json" --image-folder "$coco_path/$split" \
    ${attribution_captions:+--limit "$attribution_captions"} --list-length "$list_length" \
    --out "$captioned/identify_attention_head"
