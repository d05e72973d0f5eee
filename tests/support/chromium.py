"""Debian's chromium without a window, driven by its DevTools protocol over two pipes: no driver, no network."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROGRAM = shutil.which("chromium")
NEEDED = pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed: apt-get install chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
FLAGS += ["--no-first-run", "--no-default-browser-check", "--hide-scrollbars", "--remote-debugging-pipe"]
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13, "Escape": 27, "Tab": 9}


class Page:
    """One tab. `complaints` are its console errors, exceptions and requests for anything but itself."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from, self._rest, self._number = to_browser, from_browser, b"", 0
        self._session: str | None = None
        self._events: list[dict] = []
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, path: Path) -> None:
        """Load a file and wait for the load event."""
        self._events = []
        self.call("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._note(self._read())

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression; of a promise, what it comes to."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            raise RuntimeError(f"{expression}: {done['exceptionDetails']['exception'].get('description')}")
        return done["result"].get("value")

    def press(self, key: str) -> None:
        """A key as a person presses it: a name of KEYS, or a character."""
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        code = KEYS.get(key, ord(key.upper()[0]))
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=text, windowsVirtualKeyCode=code)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def point(self, selector: str, click: bool = False) -> None:
        """Move the mouse over the middle of an element, and maybe click there."""
        at = f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
        at += "e.scrollIntoView({block: 'center', behavior: 'instant'}); const b = e.getBoundingClientRect(); "
        at += "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        x, y = self.run(at)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased") if click else ():
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def show_as(self, width: int, height: int, scheme: str = "light", phone: bool = False) -> None:
        """The window's size, and whether the person prefers light or dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        still = {"name": "prefers-reduced-motion", "value": "reduce"}  # nothing glides away from the mouse
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}, still])

    def _note(self, message: dict) -> None:
        self._events.append(message)
        method, given = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(given["exceptionDetails"]["exception"].get("description", "an exception"))
        elif method == "Runtime.consoleAPICalled" and given["type"] in ("error", "warning", "assert"):
            self.complaints.append(f"console: {given['args']}")
        elif method == "Log.entryAdded" and given["entry"]["level"] in ("error", "warning"):
            self.complaints.append(given["entry"]["text"])
        elif method == "Network.requestWillBeSent" and not given["request"]["url"].startswith(("file:", "data:")):
            self.complaints.append(f"asked for {given['request']['url']}")

    def _read(self) -> dict:
        while b"\0" not in self._rest:
            got = os.read(self._from, 1 << 20)
            if not got:
                raise RuntimeError("chromium went away")
            self._rest += got
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)


@contextmanager
def chromium(program: str, profile: Path) -> Iterator[Page]:
    """A browser with a fresh profile folder, closed in the end."""
    read_commands, to_browser = os.pipe()
    from_browser, write_answers = os.pipe()
    # the protocol's pipes are file descriptors 3 and 4
    start = f'exec "$0" "$@" 3< /dev/fd/{read_commands} 4> /dev/fd/{write_answers}'
    command = ["sh", "-c", start, program, *FLAGS, f"--user-data-dir={profile}"]
    browser = subprocess.Popen(command, pass_fds=(read_commands, write_answers), stderr=subprocess.DEVNULL)
    os.close(read_commands)
    os.close(write_answers)
    try:
        yield Page(to_browser, from_browser)
    finally:
        os.close(to_browser)
        os.close(from_browser)
        browser.terminate()
        browser.wait(timeout=20)


def text(page: Page, selector: str) -> str:
    return page.run(f"document.querySelector({json.dumps(selector)}).innerText")


def count(page: Page, selector: str) -> int:
    return page.run(f"document.querySelectorAll({json.dumps(selector)}).length")
