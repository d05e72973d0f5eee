#!/bin/sh
# Figure 3: attention on image and text of hallucination and non-hallucination heads, where object words are predicted.
# Needs bash_scripts/attribute.sh. Writes attention_bias.json, .png, .pdf under the profile's result_path/train2014/attention_bias.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/analysis/attention_bias.sh [any flag of llava_hh.scripts.analyze_attention_bias]
set -eu
cd "$(dirname "$0")/../.."
. bash_scripts/profile.sh
split=train2014
num_captions=100

launch llava_hh.scripts.analyze_attention_bias \
    --model "$model_path" --captions "$result_path/$split/captions_eval_results.json" --image-folder "$coco_path/$split" \
    --heads "$result_path/$split/identify_attention_head/attribution_result.json" --top-k "$bias_top_k" \
    --limit "$num_captions" ${paper_values:+--paper-values} --out "$result_path/$split/attention_bias" "$@"
