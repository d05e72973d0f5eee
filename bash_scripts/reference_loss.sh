#!/bin/sh
# Language-model loss of reference captions under AD-HH, zeroed heads and random ones: whether a method harms what the model
# knows. Needs bash_scripts/attribute.sh. Writes reference_loss.json under the profile's
# result_path/val2014-100-seed42/reference_loss.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/reference_loss.sh [any flag of llava_hh.scripts.reference_loss]
set -eu
cd "$(dirname "$0")/.."
. bash_scripts/profile.sh
split=val2014
captions_per_image=2
num_draws=3

out="$result_path/$(drawn "$split" "$reference_images" "$draw_seed" "$@")/reference_loss"
decoded="$result_path/$(drawn "$split" "$report_images" "$draw_seed")"

captions=  # what the methods' own captions are like, where decoding.sh has made them
for each in adhh=adhh none=greedy; do
    file="$decoded/${each#*=}/captions_eval_results.json"
    if [ -f "$file" ]; then captions=yes && set -- "${each%=*}=$file" "$@"; fi
done

launch llava_hh.scripts.reference_loss \
    --model "$model_path" --image-folder "$coco_path/$split" --annotations "$coco_path/annotations" --split "$split" \
    --heads "$head_list" \
    --top-k "$top_k" --threshold "$threshold" --random-draws "$num_draws" \
    ${question:+--prompt "$question"} --limit "$reference_images" --seed "$draw_seed" \
    --captions-per-image "$captions_per_image" --batch-size "$baseline_batch_size" \
    --out "$out" ${captions:+--captions} "$@"
