#!/bin/sh
# Everything that the index of docs/results.md lists, for a profile, in order, and the page of results at the end. mini_full, whose
# numbers README has: 5.4 hours on one core; mini less, for its samples are small.
# A killed run goes on where it stopped when the same command is given again. Before each step stands how long it and the
# rest will take, by mini_full's shares of time and by how long the finished steps took; seconds are kept in reproduce.txt.
# Usage: [PROFILE=mini_full] sh bash_scripts/reproduce.sh
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."
. bash_scripts/flags.sh
no_flags "$@"
if [ -z "${PYTHON:-}" ]; then . bash_scripts/environment.sh; fi
. bash_scripts/profile.sh
export PROFILE PYTHON
case $model_path in checkpoints/mini/*) mini=yes ;; *) mini= ;; esac

# step:minutes, as measured under mini_full, one core, other work on the second; methods and methods_pope are estimated
steps="${mini:+data:1 weights:1} attribute:14 ${mini:+choose_adhh:28} decoding:28 chair_details:1 pope:9
    ${mini:+checkpoints_of_tuning:4} analysis:20 influence_by_source:30
    heads_of_answers:25 heads_of_parts:10 targeted_finetune:40 baselines:21 prepare_vti:1 methods:20 methods_pope:45 baselines_tfhh:2
    ${nocaps_path:+baselines_nocaps:21} newer_models:12 reference_loss:12 report:2"
do_step() {
    case $1 in
        data) sh bash_scripts/mini/data.sh ;;
        weights) sh bash_scripts/mini/checkpoint.sh ;;
        attribute) sh bash_scripts/attribute.sh ;;
        choose_adhh) sh bash_scripts/choose_adhh.sh ;;
        decoding)
            chosen="adhh:choice=\"$choice\""
            random="random:draws=$random_draws,of=adhh"
            sh bash_scripts/decoding.sh ${mini:+--methods "$chosen" "$random" "$random,match=rate"}
            ;;
        chair_details) sh bash_scripts/analysis/chair_details.sh ;;
        pope) sh bash_scripts/pope.sh ;;
        checkpoints_of_tuning) sh bash_scripts/mini/steps.sh ;;
        analysis) sh bash_scripts/analysis/all.sh ;;
        influence_by_source) sh bash_scripts/analysis/influence_by_source.sh ;;
        heads_of_answers) sh bash_scripts/analysis/heads_of_answers.sh ;;
        heads_of_parts) sh bash_scripts/analysis/heads_of_parts.sh ;;
        targeted_finetune) sh bash_scripts/targeted_finetune.sh ;;
        baselines) sh baselines/bash_scripts/eval_baselines.sh ;;
        prepare_vti) sh baselines/bash_scripts/prepare_vti.sh ;;
        methods) sh baselines/bash_scripts/eval_methods.sh ;;
        methods_pope) sh baselines/bash_scripts/pope_methods.sh ;;
        baselines_tfhh) sh baselines/bash_scripts/eval_ours_tfhh.sh ;;
        baselines_nocaps) DATASET=nocaps sh baselines/bash_scripts/eval_baselines.sh ;;
        newer_models) sh newer_models/decoding.sh ;;
        reference_loss) sh bash_scripts/reference_loss.sh ;;
        report) sh bash_scripts/report.sh ;;
    esac
}

record="$result_path/reproduce.txt"  # "<step> begun", then "<step> <seconds>", or "<step> finished" after a kill
mkdir -p "$result_path"
touch "$record"
number=0
for item in $steps; do
    number=$((number + 1))
    step=${item%:*}
    # shellcheck disable=SC2086,SC2116  # steps is a list, here in one line
    awk -v list="$(echo $steps)" -v number="$number" -v mini="$mini" '
        $2 == "begun" { next }
        { finished[$1] = 1; if ($2 ~ /^[0-9]+$/) seconds[$1] = $2 }
        END {
            count = split(list, items, " ")
            for (i = 1; i <= count; i++) {
                split(items[i], part, ":")
                if (mini && i == 1) { took = 600; expected = 600 }  # the first minutes alone say little
                if (part[1] in seconds) { took += seconds[part[1]]; expected += 60 * part[2] }
                if (i == number) { name = part[1]; share = (name in finished) ? 0 : part[2] }
                if (i >= number && !(part[1] in finished)) left += part[2]
            }
            rate = expected ? took / expected : 1
            about = sprintf("about %.0f minutes; about %.0f until the end", share * rate, left * rate)
            if (!expected && !mini) about = "no estimate before the first step is done"
            if (name in finished) about = "finished before"
            printf "== step %d of %d: %s (%s)\n", number, count, name, about
        }' "$record"
    outcome=$(if grep -q "^$step " "$record"; then echo finished; fi)
    started=$(date +%s)
    echo "$step begun" >> "$record"
    do_step "$step"
    took=$(($(date +%s) - started))
    if [ "$took" -lt 0 ]; then took=finished; fi  # the clock was set back
    echo "$step ${outcome:-$took}" >> "$record"
done
