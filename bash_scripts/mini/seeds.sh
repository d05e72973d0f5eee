#!/bin/sh
# mini tuned with three seeds, of which the first is the committed one: for each its heads, and captions of greedy decoding,
# AD-HH and random heads that fire as often, all with the setting that was chosen on the first; then the three head lists against
# each other, and how far CHAIR varies over seeds. Two and a half hours on one core. A killed run goes on where it stopped.
# Writes results/mini/measured_seeds_{heads,greedy,adhh,random}.json.
# Usage: sh bash_scripts/mini/seeds.sh
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. bash_scripts/flags.sh
no_flags "$@"
. bash_scripts/python.sh
export PYTHON
out=results/mini/measured_seeds
images=250

for seed in 6 7; do
    folder=checkpoints/mini/seed$seed
    sh bash_scripts/mini/build.sh --seed "$seed" --weights "$folder/adapters" --model "$folder/model"
done

# only FOLDER: that folder; refuses several, of which one is of another head list
only() {
    if [ $# -gt 1 ]; then
        echo "error: expected one folder, found $*; delete those of other head lists" >&2
        exit 2
    fi
    echo "$1"
}

heads='' greedy='' adhh='' random=''
for PROFILE in mini_full mini_seed6 mini_seed7; do
    export PROFILE
    . bash_scripts/profile.sh
    sh bash_scripts/attribute.sh
    decoded="$result_path/$(drawn val2014 "$images" "$draw_seed")"
    setting="adhh:top_k=$top_k,threshold=$threshold"
    sh bash_scripts/decoding.sh --limit "$images" --methods "$setting" "random:draws=1,of=adhh,match=rate"
    heads="$heads $head_list" greedy="$greedy $decoded/greedy" random="$random $(only "$decoded/random-rate-"*)"
    adhh="$adhh $(only "$decoded/adhh-top_k=$top_k-threshold=$threshold-"*)"
done
# shellcheck disable=SC2086  # these are lists of paths without blanks
{
    "$PYTHON" -m llava_hh compare heads $heads --top-k 10 --out "${out}_heads.json"
    "$PYTHON" -m llava_hh compare seeds --runs $greedy --reference $greedy --out "${out}_greedy.json"
    "$PYTHON" -m llava_hh compare seeds --runs $adhh --reference $greedy --out "${out}_adhh.json"
    "$PYTHON" -m llava_hh compare seeds --runs $random --reference $greedy --out "${out}_random.json"
}
