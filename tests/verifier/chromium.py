"""A real headless Chromium, driven through the DevTools protocol over two pipes: no port, no library, no driver program.

Messages are JSON objects, each ended by a zero byte (`--remote-debugging-pipe`). Answers are matched by number; of the events only those
that a test asks for are kept.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium-headless-shell") or shutil.which("chromium")
ANSWER_S_MAX = 60
FLAGS = (
    "--headless",
    "--no-sandbox",  # as root in CI; the page is ours, and what it is given is what it must withstand
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
)


class Browser:
    """One Chromium process with one page."""

    def __init__(self, directory: Path) -> None:
        self._number = 0
        self._pending = b""
        self.events: list[dict[str, Any]] = []
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 64) for end in (theirs_in, theirs_out)]
        self._pid = os.posix_spawn(
            str(PROGRAM),
            [str(PROGRAM), *FLAGS, f"--user-data-dir={directory}", "about:blank"],
            {"HOME": str(directory), "PATH": os.defpath, "LANG": "C.UTF-8", "TZ": "America/Cancun"},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, high[0], 3),
                (os.POSIX_SPAWN_DUP2, high[1], 4),
            ],
            setpgroup=0,
        )
        for end in (theirs_in, theirs_out, *high):
            os.close(end)
        self._session: str | None = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "DOM", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of one command. Raises AssertionError when Chromium refuses it or is silent for a minute."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + ANSWER_S_MAX
        while True:
            answer = self._next(deadline)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
            if "method" in answer:
                self.events.append(answer)

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._pending:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "Chromium does not answer"
            read = os.read(self._in, 1 << 20)
            assert read, "Chromium ended"
            self._pending += read
        message, _, self._pending = self._pending.partition(b"\0")
        return dict(json.loads(message))

    def run(self, script: str) -> Any:
        """The value of an expression, awaited if it is a promise. Raises AssertionError for an exception in the page."""
        result = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, condition: str, s_max: float = ANSWER_S_MAX) -> None:
        deadline = time.monotonic() + s_max
        while not self.run(condition):
            assert time.monotonic() < deadline, f"the page never came to: {condition}"
            time.sleep(0.01)

    def open(self, url: str) -> None:
        self.ask("Page.navigate", url=url)
        self.wait("document.documentElement?.dataset.state === 'ready'")

    def choose(self, selector: str, files: Sequence[Path]) -> None:
        """What a person does with the file dialogue: the input's own event follows."""
        found = self.ask("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        self.ask("DOM.setFileInputFiles", files=[str(file) for file in files], objectId=found["result"]["objectId"])

    def screenshot(self, width: int = 1000) -> bytes:
        """PNG of the whole page."""
        height = self.run("document.documentElement.scrollHeight")
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])

    def pdf(self) -> bytes:
        return base64.b64decode(self.ask("Page.printToPDF", printBackground=True)["data"])

    def close(self) -> None:
        os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._in)
        os.close(self._out)


@contextmanager
def browser(directory: Path) -> Iterator[Browser]:
    opened = Browser(directory)
    try:
        yield opened
    finally:
        opened.close()
