"""How a command ends from outside: by a signal, or because nobody reads what it prints."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WRAPPERS = "LLAVA_HH_WRAPPERS"  # process ids of shells that wait for this one
AGAIN, LOOK_EVERY = 0.05, 0.5  # seconds
came: list[int] = []  # signals that `ending_well` has seen


class Stopped(KeyboardInterrupt):
    """A signal came; clean-up goes on as after Ctrl-C."""


@contextmanager
def ending_well() -> Iterator[None]:
    """End by one line and 128 + its number after SIGINT, SIGTERM or SIGHUP; of several processes the first prints it.

    A second signal does not disturb the clean-up after the first; a third of the same kind ends the process at once.
    Where stdout is closed in the end, as after `| head`, end without a word with 141, as the shell's own tools do.
    Where it cannot be written, as on a full disk, one line, 2. What stdout's encoding lacks is printed in escapes.
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.reconfigure(errors="backslashreplace")
    came.clear()

    def stop(number: int, _: Any) -> None:
        came.append(number)
        if len(came) == 1:
            raise Stopped
        signal.signal(number, signal.SIG_DFL)

    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP, a shell SIGINT for what is behind &
            signal.signal(number, stop)
    sys.unraisablehook = _without_stops
    try:
        yield
        flush_stdout()
    except BaseException as error:
        is_done = isinstance(error, SystemExit) and not error.code
        if is_done or not (came or isinstance(error, KeyboardInterrupt)):
            flush_stdout()
            raise
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        number = came[0] if came else signal.SIGINT
        if os.environ.get("RANK", "0") == "0":
            how = (
                f"stopped{_reached()}; the same command goes on"
                if _reached()
                else "stopped; give the same command again"
            )
            _print_error(f"\n{how}")
        end(128 + number)


def end_with_wrappers() -> None:
    """Stop this process soon after a wrapper that waits for it was killed: a shell passes no signal on.

    Wrappers, which call one another, write their process ids into LLAVA_HH_WRAPPERS. Only what the last of them started
    itself looks at these: they may be ids of another machine elsewhere.
    """
    wrappers = [int(number) for number in os.environ.get(WRAPPERS, "").split() if number.isdecimal()]
    is_orphan = bool(wrappers) and os.getppid() == 1 and not _lives(wrappers[-1])  # it was killed before this began
    if os.getppid() not in wrappers and not is_orphan:
        return
    wrappers = [
        number for number in wrappers if number != os.getpid()
    ]  # the place of the last was taken by this process

    def watch() -> None:
        while all(map(_lives, wrappers)):
            time.sleep(LOOK_EVERY)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
        with open(f"/proc/{process}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] != b"Z"  # ended, and nobody has asked how
    except ProcessLookupError:
        return False
    except OSError:  # of another user, or a system without /proc
        return True


def _without_stops(unraisable: Any) -> None:
    """Say nothing of a stop that Python cannot raise, as in a finalizer, and send the signal once more."""
    if not isinstance(unraisable.exc_value, Stopped):
        sys.__unraisablehook__(unraisable)
    elif came:
        number = came[0]
        came.clear()
        again = threading.Timer(AGAIN, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()


def refuse_stopped() -> None:
    """Raise Stopped where a signal came: libraries make other errors of what it raised, or pass over it."""
    if came:
        raise Stopped


def flush_stdout(write: Callable[[], object] = lambda: None) -> None:
    """Write to stdout, and flush it; end where that fails."""
    try:
        write()
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        end(128 + signal.SIGPIPE)
    except OSError as error:
        _print_error(f"error: stdout: could not be written ({error.strerror}); finished files are kept")
        end(2)


def _print_error(text: str) -> None:
    if sys.stderr is not None:  # closed
        print(text, file=sys.stderr, flush=True)


def _reached() -> str:
    progress = sys.modules.get("llava_hh.files.progress")  # not imported for this, for a signal may come first of all
    return progress.reached if progress else ""


def end(status: int) -> NoReturn:
    """Exit, without what still waits to be printed."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    raise SystemExit(status) from None
