#!/bin/sh
# Language-model loss of reference captions under AD-HH, removed heads and random ones: whether a method harms what the model
# knows. Needs bash_scripts/attribute.sh. Writes reference_loss.json under the profile's
# result_path/val2014-<reference_images>-seed42/reference_loss.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/reference_loss.sh [any flag of llava-hh evaluate]
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."
. bash_scripts/profile.sh
split=val2014
captions_per_image=2
num_draws=3

out="$result_path/$(drawn "$split" "$reference_images" "$draw_seed" "$@")/reference_loss"
decoded="$result_path/$(drawn "$split" "$report_images" "$draw_seed")"

greedy="$decoded/greedy/captions_eval_results.json"  # what captions are like, where decoding.sh has made them
captions=
for adhh in "$decoded/adhh-top_k=$top_k-threshold=$threshold-"*/captions_eval_results.json; do
    if [ -f "$adhh" ]; then captions="${captions}1"; fi
done
if [ "$captions" = 1 ] && [ -f "$greedy" ] && [ -z "$(given --methods "" "$@")" ]; then  # of one head list
    set -- "greedy=$greedy" "adhh=$adhh" "$@"
else
    captions=
fi

launch_last llava_hh evaluate --profile "$PROFILE" \
    --task loss --captions-per-image "$captions_per_image" \
    --split "$split" --limit "$reference_images" --seed "$draw_seed" --batch-size "$baseline_batch_size" \
    --methods "adhh:top_k=$top_k,threshold=$threshold" "removal:top_k=$top_k" \
        "random:draws=$num_draws,of=adhh" "random:draws=$num_draws,of=removal" \
    --out "$out" ${captions:+--captions} "$@"
