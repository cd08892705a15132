"""Chromium without a window and without a network, by its own protocol through a pipe."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run", "--disable-sync",
    "--disable-component-update", "--disable-background-networking", "--disable-dev-shm-usage",
)  # fmt: skip
PATIENCE_S = 60.0


class Page:
    """A tab. requests: the addresses that it asked for; problems: errors and warnings of its console."""

    def __init__(self, send: int, receive: int):
        self.send, self.receive, self.number, self.rest = send, receive, 0, b""
        self.session = ""
        self.requests, self.problems = list[str](), list[str]()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.send, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            answer = self.next_message()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                result: dict[str, Any] = answer["result"]
                return result
            self.note(answer)
        raise TimeoutError(method)

    def next_message(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            piece = os.read(self.receive, 2**16)
            assert piece, "the browser is gone"
            self.rest += piece
        one, _, self.rest = self.rest.partition(b"\0")
        message: dict[str, Any] = json.loads(one)
        return message

    def note(self, event: dict[str, Any]) -> None:
        given = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(given["request"]["url"][:100])
        if event.get("method") == "Runtime.exceptionThrown":
            self.problems.append(str(given["exceptionDetails"])[:500])
        if event.get("method") == "Log.entryAdded" and given["entry"]["level"] in ("error", "warning"):
            self.problems.append(given["entry"]["text"])

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, awaited."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until an expression is true."""
        end = time.monotonic() + PATIENCE_S
        while not self.evaluate(f"Boolean({expression})"):
            assert time.monotonic() < end, f"{expression}; {self.problems}"
            time.sleep(0.05)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))


@contextmanager
def open_page(address: str, folder: Path, offline: bool = True) -> Iterator[Page]:
    """A page at an address. folder: of the browser's profile."""
    (reads, ours), (theirs, writes) = os.pipe(), os.pipe()
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (reads, writes)]

    def place_ends() -> None:  # where Chromium looks for them
        for end, place in zip(ends, (3, 4), strict=True):
            os.dup2(end, place)

    process = subprocess.Popen(
        [str(BROWSER), *ARGUMENTS, f"--user-data-dir={folder}", "about:blank"], close_fds=False, preexec_fn=place_ends,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for end in (reads, writes, *ends):
        os.close(end)
    try:
        page = Page(ours, theirs)
        targets = page.call("Target.getTargets")["targetInfos"]
        target = next(one["targetId"] for one in targets if one["type"] == "page")
        page.session = page.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Network", "Runtime", "Log", "Page"):
            page.call(f"{domain}.enable")
        if offline:
            page.call(
                "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0
            )
        page.call("Page.navigate", url=address)
        yield page
    finally:
        os.close(ours)
        process.terminate()
        process.wait(30)
        os.close(theirs)
