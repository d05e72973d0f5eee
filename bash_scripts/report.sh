#!/bin/sh
# The results of a profile as one page to look at: where the top heads look at object words is recorded, then report.html
# written. Needs bash_scripts/attribute.sh and bash_scripts/decoding.sh; shows whatever else is there.
# Usage: [PROFILE=llava-v1.5-7b] sh bash_scripts/report.sh [flags of figure words and report html]
# A flag goes to those of the two that know it; --limit goes to html (images in its browser).
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."
. bash_scripts/profile.sh
keep_own "--captions --image-folder --out" "change result_path of a profile of your own" "$@"
share "figure.words report.html" "html: --limit" "$@"
top_heads=5
words_of=24  # captions with a hallucination, of each split
decoded="$result_path/$(drawn val2014 "$report_images" "$draw_seed")"

with words launch llava_hh figure words --profile "$PROFILE" \
    --captions "$attributed/captions_eval_results.json" --image-folder "$coco_path/train2014" \
    --top-k "$top_heads" --limit "$words_of" --out "$attributed/word_maps"

with words launch llava_hh figure words --profile "$PROFILE" \
    --captions "$decoded/greedy/captions_eval_results.json" --image-folder "$coco_path/val2014" \
    --top-k "$top_heads" --limit "$words_of" --out "$decoded/greedy/word_maps"

with html launch_last llava_hh report html "$result_path" --first "$attributed" "$decoded"
