# shellcheck shell=sh disable=SC2089,SC2090  # the quotes are part of the methods
# Sourced by both wrappers of figure 6, which set span and alphas: captions at each factor on the attention, of listed and random heads; then the figure.
keep_own "--out --summary" "change result_path of a profile of your own" "$@"
share "evaluate figure.factors" "" "$@"
split=val2014
out="$result_path/$(with evaluate drawn "$split" "$reweight_images" "$draw_seed")/attention_reweight"

methods=
for alpha in $alphas; do
    scale=scale:span=$span,alpha=$alpha,top_k=$reweight_top_k
    methods="$methods $scale random:draws=$reweight_draws,of=\"$scale\""
done

# shellcheck disable=SC2086  # methods is a list
with evaluate launch llava_hh evaluate --profile "$PROFILE" \
    --split "$split" --limit "$reweight_images" --seed "$draw_seed" --methods $methods \
    --out "$out" --summary "$out/summary_$span.json"

with factors launch_last llava_hh figure factors \
    --summary "$out/summary_$span.json" --span "$span" ${paper_values:+--paper-values} --out "$out"
