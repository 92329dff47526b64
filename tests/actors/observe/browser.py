"""A real browser that opens a page and tells what it did: Chromium over its DevTools pipe.

Here: starting it, asking it, ending it. Not here: what must hold of a page. No port is opened:
commands and events are JSON on two pipes.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import pytest

#: What the distributions call it.
NAMES = ("chromium", "chromium-browser", "google-chrome")
#: "required" where the browser must be there, as in CI; else a test without one is skipped.
VARIABLE = "COVEY_BROWSER"
#: Bounds every wait; a page is there within a second.
GUARD_S = 60.0

_FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",  # which root may not have
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
)


def find() -> str:
    """The browser's path; skips the test without one, fails it where one is required."""
    path = next((path for name in NAMES if (path := shutil.which(name))), None)
    if path is None:
        text = f"there is no browser; install one of {', '.join(NAMES)}"
        if os.environ.get(VARIABLE) == "required":
            pytest.fail(text)
        pytest.skip(text)
    return path


class Browser:
    """One browser with one page; use it as a context.

    Attributes:
        events: What the page told since it was opened, as (method, parameters).
    """

    def __init__(self) -> None:
        browser = find()
        self.events: list[tuple[str, Any]] = []
        self._profile = tempfile.mkdtemp(prefix="covey-browser-")
        theirs_in, self._commands = _pipe()
        self._answers, theirs_out = _pipe()
        self._buffer = bytearray()
        self._number = 0
        self._session: str | None = None
        command = [browser, *_FLAGS, f"--user-data-dir={self._profile}", "about:blank"]
        quiet = os.open(os.devnull, os.O_RDWR)
        moves = [(quiet, 0), (quiet, 1), (quiet, 2), (theirs_in, 3), (theirs_out, 4)]
        self._pid = os.posix_spawn(
            command[0],
            command,
            {**os.environ, "DBUS_SESSION_BUS_ADDRESS": "disabled:", "HOME": self._profile},
            file_actions=[(os.POSIX_SPAWN_DUP2, ours, its) for ours, its in moves],
            setpgroup=0,
        )
        for fd in (theirs_in, theirs_out, quiet):
            os.close(fd)

    def __enter__(self) -> Self:
        targets = self.ask("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        attached = self.ask("Target.attachToTarget", targetId=page, flatten=True)
        self._session = str(attached["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._commands)
        os.close(self._answers)
        os.killpg(self._pid, signal.SIGKILL)  # its own group, which holds all its processes
        os.waitpid(self._pid, 0)
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(self, page: Path, width: int, height: int, dark: bool = False) -> None:
        """Show a page in a window of this size, and wait until it is loaded."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.ask("Page.navigate", url=page.resolve().as_uri())
        while not any(method == "Page.loadEventFired" for method, _ in self.events):
            self._take(self._read())

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def point(self, x: float, y: float) -> None:
        """Move the mouse to a place in the window."""
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """Keep what is shown as a PNG file; the whole page or only the window."""
        shot = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    @property
    def requests(self) -> list[str]:
        """Addresses that the page asked for."""
        sent = (what for method, what in self.events if method == "Network.requestWillBeSent")
        return [what["request"]["url"] for what in sent]

    @property
    def complaints(self) -> list[Any]:
        """What stands in the page's console."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [what for method, what in self.events if method in kinds]

    def ask(self, method: str, **parameters: Any) -> Any:
        """Send a command and wait for its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        _write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._take(answer)

    def _take(self, message: dict[str, Any]) -> None:
        if "method" in message:
            self.events.append((message["method"], message["params"]))

    def _read(self) -> dict[str, Any]:
        until = time.monotonic() + GUARD_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], until - time.monotonic())
            data = os.read(self._answers, 1 << 20) if ready else b""
            assert data, "the browser says nothing more"
            self._buffer += data
        message, _, rest = bytes(self._buffer).partition(b"\0")
        self._buffer[:] = rest
        found: dict[str, Any] = json.loads(message)
        return found


def _pipe() -> tuple[int, int]:
    """A pipe whose ends are above those that the browser wants to have."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 16) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
