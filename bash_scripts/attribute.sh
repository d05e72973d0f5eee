#!/bin/sh
# Hallucination heads: captions of train2014 images, their CHAIR, and the exact influence of every head on every object word.
# Writes captions and identify_attention_head/{attribution_result.json,head_map.png} under the profile's
# result_path/train2014-<attribution_images>-seed42.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/attribute.sh [any flag of llava_hh.scripts.attribute]
set -eu
cd "$(dirname "$0")/.."
. bash_scripts/profile.sh
split=train2014

launch llava_hh.scripts.caption \
    --model "$model_path" --image-folder "$coco_path/$split" --annotations "$coco_path/annotations" --split "$split" \
    ${question:+--prompt "$question"} --limit "$attribution_images" --seed "$draw_seed" \
    --max-new-tokens "$max_new_tokens" --batch-size "$batch_size" --out "$attributed"

launch llava_hh.scripts.evaluate_chair \
    --captions "$attributed/captions.jsonl" --annotations "$coco_path/annotations"

launch llava_hh.scripts.attribute \
    --model "$model_path" --captions "$attributed/captions_eval_results.json" --image-folder "$coco_path/$split" \
    ${attribution_captions:+--limit "$attribution_captions"} --list-length "$list_length" \
    --out "$attributed/identify_attention_head" "$@"
