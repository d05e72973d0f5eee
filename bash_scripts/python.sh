# shellcheck shell=sh
# Sourced from the repository's root: PYTHON is the one you name, that of .venv, or python3.
if [ -z "${PYTHON:-}" ]; then
    if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python3; fi
fi
