#!/bin/sh
# Language-model loss of reference captions under AD-HH, zeroed heads and random ones: whether a method harms what the model
# knows. Needs bash_scripts/attribute.sh. Writes val2014/reference_loss/reference_loss.json under the profile's result_path.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/reference_loss.sh [any flag of llava_hh.scripts.reference_loss]
set -eu
cd "$(dirname "$0")/.."
. bash_scripts/profile.sh
split=val2014
seed=42
num_images=100
captions_per_image=2
num_draws=3

captions=  # what the methods' own captions are like, where decoding.sh has made them
for each in none=greedy adhh=adhh; do
    file="$result_path/$split/${each#*=}/captions_eval_results.json"
    if [ -f "$file" ]; then captions="$captions ${each%=*}=$file"; fi
done

# shellcheck disable=SC2086  # captions is a list
launch llava_hh.scripts.reference_loss \
    --model "$model_path" --image-folder "$coco_path/$split" --annotations "$coco_path/annotations" --split "$split" \
    --heads "$result_path/train2014/identify_attention_head/attribution_result.json" \
    --top-k "$top_k" --threshold "$threshold" --random-draws "$num_draws" \
    ${question:+--prompt "$question"} --limit "$num_images" --seed "$seed" \
    --captions-per-image "$captions_per_image" --batch-size "$baseline_batch_size" \
    ${captions:+--captions $captions} --out "$result_path/$split/reference_loss" "$@"
