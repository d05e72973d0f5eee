#!/bin/sh
# Head lists found on one part of the data and used on the other: the parts are images with one of part_objects, and with none.
# Both lists come from the finished attribution, in seconds; then AD-HH with either list, and random heads, on each part of
# val2014. Needs bash_scripts/attribute.sh. mini: about 10 minutes on one core.
# Writes heads_of_parts/{with,without}/attribution_result.json and compare.json in the draw's folder of attribute.sh, and
# heads_of_parts/val2014-<part_images>-seed42_{with,without}/summary.json under the profile's result_path.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/analysis/heads_of_parts.sh [flags of compare heads and evaluate]
# A flag goes to those of the two that know it.
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. bash_scripts/profile.sh
keep_own "--with-object --without-object --heads --methods --out --summary" \
    "change part_objects, part_top_k or result_path of a profile of your own" "$@"
share "compare.heads evaluate" "" "$@"
split=val2014
lists="$attributed/heads_of_parts"
out="$result_path/heads_of_parts/$(with evaluate drawn "$split" "$part_images" "$draw_seed")"

rest=$part_objects,
set --
while [ -n "$rest" ]; do
    name=${rest%%,*} rest=${rest#*,}
    name=${name#"${name%%[! ]*}"}
    if [ -n "$name" ]; then set -- "$@" "${name%"${name##*[! ]}"}"; fi
done

for part in with without; do
    launch llava_hh attribute \
        --of "$attributed/identify_attention_head" --captions "$attributed/captions_eval_results.json" \
        "--$part-object" "$@" --list-length "$list_length" --out "$lists/$part"
done

with heads launch llava_hh compare heads \
    "$lists/with/attribution_result.json" "$lists/without/attribution_result.json" --out "$lists/compare.json"

adhh=adhh:top_k=$part_top_k,threshold=$part_threshold
other=without
for part in with without; do
    with evaluate launch llava_hh evaluate --profile "$PROFILE" \
        --split "$split" --limit "$part_images" --seed "$draw_seed" "--$part-object" "$@" \
        --heads "$lists/$part/attribution_result.json" \
        --methods "$adhh,label=\"AD-HH, list of these images\"" \
        "$adhh,heads=\"$lists/$other/attribution_result.json\",label=\"AD-HH, list of the others\"" \
        "random:draws=$random_draws,of=\"$adhh\"" \
        --out "${out}_$part"
    other=with
done
