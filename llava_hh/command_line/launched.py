"""A launcher of several processes, ended as one command: `python -m llava_hh.command_line.launched LAUNCHER ...`.

After Ctrl-C or SIGTERM a launcher prints a traceback of its own and exits with 1. Here what it prints after the signal
is left out but for the line of the first process, and the status is 128 + the signal, as without a launcher.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

from llava_hh.files.signals import SIGNALS, WRAPPERS, end_with_wrappers

ON_TERMINAL = "LLAVA_HH_ON_TERMINAL"  # bars are shown, although what is printed goes through a pipe
LEADS = b"stopped"  # how the line begins that stays


def unblock() -> None:
    """Let signals come."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def main() -> None:
    """Run the command of the arguments."""
    came: list[int] = []
    if sys.stderr is not None and sys.stderr.isatty():
        os.environ[ON_TERMINAL] = "1"

    def stop(number: int, _: Any) -> None:
        came.append(number)
        os.killpg(child.pid, number if len(came) == 1 else signal.SIGKILL)

    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until they have their handlers
    # it alone looks at its wrappers: a child that did so too could end first, as if by itself
    environment = {name: value for name, value in os.environ.items() if name != WRAPPERS}
    try:  # a group of its own: what a terminal sends comes here alone, and goes to the launcher and all that it started
        child = subprocess.Popen(
            sys.argv[1:], stderr=subprocess.PIPE, process_group=0, preexec_fn=unblock, env=environment
        )
    except OSError as error:
        print(f"error: LAUNCH: {sys.argv[1]}: {error.strerror}", file=sys.stderr)
        raise SystemExit(127) from None
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)
    unblock()
    end_with_wrappers()
    rest, is_told = b"", False
    while printed := os.read(child.stderr.fileno(), 1 << 16):
        if came:
            *lines, rest = (rest + printed).split(b"\n")
            printed = b"".join(line + b"\n" for line in lines if line.startswith(LEADS))
            is_told = is_told or bool(printed)
        with suppress(OSError):  # nobody reads it; the work goes on
            while printed:
                printed = printed[os.write(2, printed) :]
    status = child.wait()
    if came and status:
        if not is_told:  # no process had begun
            print("stopped; give the same command again", file=sys.stderr)
        raise SystemExit(128 + came[0])
    raise SystemExit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
