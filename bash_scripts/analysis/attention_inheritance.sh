#!/bin/sh
# Figure 4: attention from text to text of hallucination and other heads, compared with the base language model's.
# Needs bash_scripts/attribute.sh. Writes attention_inheritance.json, .png, .pdf in the draw's folder of attribute.sh.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/analysis/attention_inheritance.sh [any flag of llava_hh.scripts.analyze_attention_inheritance]
set -eu
cd "$(dirname "$0")/../.."
. bash_scripts/profile.sh
split=train2014
num_captions=100

launch llava_hh.scripts.analyze_attention_inheritance \
    --model "$model_path" --base-model "$base_model" \
    --captions "$attributed/captions_eval_results.json" --image-folder "$coco_path/$split" \
    --heads "$head_list" --top-k "$inheritance_top_k" \
    --limit "$num_captions" ${paper_values:+--paper-values} --out "$attributed/attention_inheritance" "$@"
