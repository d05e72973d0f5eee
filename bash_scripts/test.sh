#!/bin/sh
# Every check: ruff, shell syntax, shellcheck where it is installed, pytest (mini's tests included) on up to 4 cores.
# 12 minutes on 2 quiet ones.
# Usage: sh bash_scripts/test.sh [any argument of pytest]
set -eu
cd "$(dirname "$0")/.."
. bash_scripts/environment.sh
export PYTHON
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
find bash_scripts baselines/bash_scripts newer_models/*.sh .ci -type f ! -name '*.yaml' ! -path '*/profiles/*' | while read -r script; do
    sh -n "$script"
    if command -v shellcheck >/dev/null; then shellcheck -x "$script"; fi
done
sh bash_scripts/mini/checkpoint.sh
"$PYTHON" -m pytest -n logical --maxprocesses 4 --dist loadfile "$@"
