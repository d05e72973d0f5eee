#!/bin/sh
# Figure 5: how far the attention of hallucination heads moves in instruction tuning. Needs bash_scripts/attribute.sh and the
# profile's checkpoints of the tuning (mini: sh bash_scripts/mini/steps.sh).
# Writes js_divergence/js_divergence.{json,png,pdf} in the draw's folder of attribute.sh.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/analysis/js_div_in_training.sh [any flag of llava_hh.scripts.analyze_js_divergence]
set -eu
cd "$(dirname "$0")/../.."
. bash_scripts/profile.sh
if [ -z "$training_checkpoints" ]; then
    echo "error: PROFILE=$PROFILE has no checkpoints of a tuning (its training_checkpoints is empty)" >&2
    exit 2
fi
split=train2014
num_captions=100
num_heads=3

# shellcheck disable=SC2086  # training_checkpoints is a list
launch llava_hh.scripts.analyze_js_divergence \
    --reference "$reference_model" --checkpoints $training_checkpoints \
    --heads "$head_list" --top-k "$num_heads" \
    --captions "$attributed/captions_eval_results.json" --image-folder "$coco_path/$split" --limit "$num_captions" \
    ${paper_values:+--paper-values} --out "$attributed/js_divergence" "$@"
