#!/bin/sh
# Heads of wrong answers: POPE's adversarial questions about train2014 images in three formats (what follows the question: llava,
# vcd, none), the influence of every head on the yes or no that was answered, wrong answers against right ones; then these
# lists against each other and against that of captions, if bash_scripts/attribute.sh has made it. mini: about 10 minutes on one core.
# Writes <format>/identify_attention_head/attribution_result.json and compare.json under the profile's
# result_path/heads_of_answers/train2014-<pope_images>-seed42.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/analysis/heads_of_answers.sh [flags of evaluate, attribute and compare heads]
# A flag goes to those of the three that know it; --limit and --batch-size go to evaluate (--limit is the number of images).
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. bash_scripts/profile.sh
keep_own "--task --suffix --methods --answers --captions --targets --of --questions --split --image-folder --out --summary" "change result_path of a profile of your own" "$@"
share "evaluate attribute compare.heads" "evaluate: --limit --batch-size" "$@"
if [ -n "$pope_questions" ]; then split=val2014; else split=train2014; fi  # official questions are about val2014
out="$result_path/heads_of_answers/$(with evaluate drawn "$split" "$pope_images" "$draw_seed")"

set --
for format in llava vcd none; do
    with evaluate launch llava_hh evaluate --profile "$PROFILE" \
        --task pope --suffix "$format" --split "$split" --limit "$pope_images" --seed "$draw_seed" \
        --methods greedy --out "$out/$format"
    with attribute launch llava_hh attribute --profile "$PROFILE" \
        --answers "$out/$format/greedy/adversarial/answers.jsonl" --image-folder "$coco_path/$split" \
        --list-length "$list_length" --out "$out/$format/identify_attention_head"
    set -- "$@" "$out/$format/identify_attention_head/attribution_result.json"
done

if [ -f "$head_list" ]; then set -- "$@" "$head_list"; fi
with heads launch_last llava_hh compare heads "$@" --out "$out/compare.json"
