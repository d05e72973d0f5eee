# shellcheck shell=sh
# Sourced from the repository's root. PYTHON is the one you name, that of .venv, or python3. `launch` runs a module on it, or
# in several processes: LAUNCH="accelerate launch --multi_gpu --num_processes 8". `launch_last` does so in the place of the
# shell, so that a signal to the wrapper reaches it.
if [ -z "${PYTHON:-}" ]; then
    if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python3; fi
fi
LLAVA_HH_WRAPPERS="${LLAVA_HH_WRAPPERS:-} $$" # who is killed takes along what it waits for
export LLAVA_HH_WRAPPERS
launch() {
    (launch_last "$@")
}
launch_last() {
    # shellcheck disable=SC2086  # LAUNCH is a command with its flags
    if [ -n "${LAUNCH:-}" ]; then exec "$PYTHON" -m llava_hh.command_line.launched $LAUNCH -m "$@"; fi
    exec "$PYTHON" -m "$@"
}
