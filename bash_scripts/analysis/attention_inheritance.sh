#!/bin/sh
# Figure 4: attention from text to text of hallucination and other heads, compared with the base language model's.
# Needs bash_scripts/attribute.sh. Writes attention_inheritance.json, .png, .pdf in the draw's folder of attribute.sh.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/analysis/attention_inheritance.sh [any flag of llava-hh figure inheritance]
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. bash_scripts/profile.sh
num_captions=100
if [ -z "$base_model" ]; then
    echo "error: PROFILE=$PROFILE has no base language model (its base_model is empty)" >&2
    exit 2
fi

launch_last llava_hh figure inheritance --profile "$PROFILE" --base-model "$base_model" \
    --top-k "$inheritance_top_k" --limit "$num_captions" ${paper_values:+--paper-values} \
    --out "$attributed/attention_inheritance" "$@"
