#!/bin/sh
# Figure 6b: CHAIR_i as hallucination heads attend more to the image; beside random heads.
# Needs bash_scripts/attribute.sh. Writes attention_reweight_image.json, .png, .pdf under the profile's
# result_path/val2014-<reweight_images>-seed42/attention_reweight; greedy captions are shared with the other span.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/analysis/attention_reweight_img.sh [any flag of llava_hh.scripts.analyze_attention_reweight]
set -eu
cd "$(dirname "$0")/../.."
. bash_scripts/profile.sh
split=val2014

launch llava_hh.scripts.analyze_attention_reweight \
    --model "$model_path" --image-folder "$coco_path/$split" --annotations "$coco_path/annotations" --split "$split" \
    --heads "$head_list" --top-k "$reweight_top_k" \
    --span image --alphas 1.0 1.5 2.0 2.5 3.0 3.5 --random-draws "$reweight_draws" \
    ${question:+--prompt "$question"} --limit "$reweight_images" --seed "$draw_seed" \
    --max-new-tokens "$max_new_tokens" --batch-size "$batch_size" \
    ${paper_values:+--paper-values} --out "$result_path/$(drawn "$split" "$reweight_images" "$draw_seed" "$@")/attention_reweight" "$@"
