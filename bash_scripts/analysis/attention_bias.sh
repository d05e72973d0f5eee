#!/bin/sh
# Figure 3: attention on image and text of hallucination and non-hallucination heads, where object words are predicted.
# Needs bash_scripts/attribute.sh. Writes attention_bias.json, .png, .pdf in the draw's folder of attribute.sh.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/analysis/attention_bias.sh [any flag of llava-hh figure bias]
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. bash_scripts/profile.sh
num_captions=100

launch_last llava_hh figure bias --profile "$PROFILE" \
    --top-k "$bias_top_k" --limit "$num_captions" ${paper_values:+--paper-values} --out "$attributed/attention_bias" "$@"
