# shellcheck shell=sh disable=SC2034  # the wrapper that sources this reads them
# Sourced by the wrappers: mini with small samples, for bash_scripts/quickstart.sh.
. bash_scripts/profiles/mini.sh
result_path=results/mini/quick
attribution_images=120
report_images=60
random_draws=2
batch_size=30
