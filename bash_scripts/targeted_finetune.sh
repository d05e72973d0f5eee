#!/bin/sh
# TF-HH: fine-tune the query and key rows of hallucination heads, and as many random heads, for every seed; then one table of
# greedy decoding before and after, and AD-HH. Needs bash_scripts/attribute.sh. mini: 40 minutes on one core.
# Several GPUs: LAUNCH="accelerate launch --config_file bash_scripts/accelerate/ddp.yaml" in front.
# Writes targeted_finetune/{heads,random}_<seed>/{model,log.jsonl,curves.png} and
# targeted_finetune/val2014-<finetune_report_images>-seed42/summary.json under result_path.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/targeted_finetune.sh [flags of finetune and evaluate]
# A flag goes to those of the two that know it; --image-folder and --batch-size go to finetune.
# --limit is evaluate's: the number of images to caption.
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."
. bash_scripts/profile.sh
keep_own "--seed --random-heads --out" "change finetune_seeds or result_path of a profile of your own" "$@"
share "finetune evaluate" "finetune: --image-folder --batch-size" "$@"
split=val2014
objective=minimize_txt
ce_coeff=1
save_every=10
out="$result_path/targeted_finetune"

for seed in $finetune_seeds; do
    for kind in heads random; do
        random_heads=
        if [ "$kind" = random ]; then random_heads=$seed; fi
        with finetune launch llava_hh finetune --profile "$PROFILE" \
            --objective "$objective" --ce-coeff "$ce_coeff" --save-every "$save_every" \
            --seed "$seed" ${random_heads:+--random-heads "$random_heads"} --out "$out/${kind}_$seed"
    done
done

set -- "adhh:top_k=$top_k,threshold=$threshold"
for seed in $finetune_seeds; do set -- "$@" "tfhh:path=\"$out/heads_$seed/model\""; done
for seed in $finetune_seeds; do set -- "$@" "tfhh:path=\"$out/random_$seed/model\",group=random_heads_tuned"; done
with evaluate launch_last llava_hh evaluate --profile "$PROFILE" \
    --split "$split" --limit "$finetune_report_images" --seed "$draw_seed" --methods "$@" \
    --out "$out/$(with evaluate drawn "$split" "$finetune_report_images" "$draw_seed")"
