#!/bin/sh
# Figure 5: how far the attention of hallucination heads moves in instruction tuning. Needs bash_scripts/attribute.sh and the
# profile's checkpoints of the tuning (mini: sh bash_scripts/mini/steps.sh).
# Writes js_divergence/js_divergence.{json,png,pdf} in the draw's folder of attribute.sh.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/analysis/js_div_in_training.sh [any flag of llava-hh figure divergence]
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. bash_scripts/profile.sh
if [ -z "$training_checkpoints" ]; then
    echo "error: PROFILE=$PROFILE has no checkpoints of a tuning (its training_checkpoints is empty)" >&2
    exit 2
fi
num_captions=50
num_heads=3

set -- --out "$attributed/js_divergence" "$@"
last_first=
for step in $training_checkpoints; do last_first="$step $last_first"; done
for step in $last_first; do set -- "${training_steps:+$training_steps/}$step" "$@"; done

launch_last llava_hh figure divergence \
    --captions "$attributed/captions_eval_results.json" --image-folder "$coco_path/train2014" --heads "$head_list" \
    --top-k "$num_heads" --limit "$num_captions" ${paper_values:+--paper-values} \
    --reference "$reference_model" --checkpoints "$@"
