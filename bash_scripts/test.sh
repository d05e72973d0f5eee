#!/bin/sh
# Ruff, shell syntax, shellcheck and pytest on tiny models, on up to 4 cores.
# About 10 minutes on 2 cores. The tests of mini's checkpoint are left to .ci/run.
# Usage: sh bash_scripts/test.sh [any argument of pytest]
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."
. bash_scripts/environment.sh
export PYTHON
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
find bash_scripts baselines/bash_scripts newer_models/*.sh .ci -type f ! -name '*.yaml' ! -path '*/profiles/*' | while read -r script; do
    sh -n "$script"
    "${PYTHON%python}shellcheck" -x "$script"
done
"$PYTHON" -m pytest -n logical --maxprocesses 4 --dist loadfile -m "not mini" "$@"
