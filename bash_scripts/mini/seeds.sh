#!/bin/sh
# mini tuned with three seeds, of which the first is the committed one: for each its heads, the choice of AD-HH's setting, its
# captions and POPE; then the three head lists against each other, and how far CHAIR varies over seeds.
# Hours on one core. A killed run goes on where it stopped.
# Writes results/mini/seeds/{heads,greedy,adhh}.json.
# Usage: sh bash_scripts/mini/seeds.sh
set -eu
cd "$(dirname "$0")/../.."
. bash_scripts/flags.sh
no_flags "$@"
. bash_scripts/python.sh
export PYTHON
out=results/mini/seeds

for seed in 6 7; do
    folder=checkpoints/mini/seed$seed
    sh bash_scripts/mini/build.sh --seed "$seed" --weights "$folder/adapters" --model "$folder/model"
    "$PYTHON" -m llava_hh mini steps --seed "$seed" --weights "$folder/adapters" --steps "$folder/steps"
done

heads='' greedy='' adhh=''
for PROFILE in mini mini_seed6 mini_seed7; do
    export PROFILE
    . bash_scripts/profile.sh
    sh bash_scripts/attribute.sh
    sh bash_scripts/choose_adhh.sh
    decoded="$result_path/$(drawn val2014 "$report_images" "$draw_seed")"
    chosen="adhh:choice=\"$choice\""
    sh bash_scripts/decoding.sh --methods "$chosen" "random:draws=$random_draws,of=adhh,match=rate"
    sh bash_scripts/pope.sh --methods "$chosen"
    heads="$heads $head_list" greedy="$greedy $decoded/greedy" adhh="$adhh $(echo "$decoded"/adhh-*)"
done
# shellcheck disable=SC2086  # these are lists of paths without blanks
{
    "$PYTHON" -m llava_hh compare heads $heads --top-k 10 --out "$out/heads.json"
    "$PYTHON" -m llava_hh compare seeds --runs $greedy --reference $greedy --out "$out/greedy.json"
    "$PYTHON" -m llava_hh compare seeds --runs $adhh --reference $greedy --out "$out/adhh.json"
}
