# shellcheck shell=sh
# Sourced from the repository's root. PYTHON is the one you name, that of .venv, or python3. `launch` runs a module on it, or
# in several processes: LAUNCH="accelerate launch --multi_gpu --num_processes 8".
if [ -z "${PYTHON:-}" ]; then
    if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python3; fi
fi
launch() {
    # shellcheck disable=SC2086  # LAUNCH is a command with its flags
    if [ -n "${LAUNCH:-}" ]; then $LAUNCH -m "$@"; else "$PYTHON" -m "$@"; fi
}
