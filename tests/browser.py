"""Headless Chromium over the DevTools protocol: opens a page, reads it, listens to its console, takes pictures."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


class Browser:
    """One page in a Chromium of its own. `problems` collects console errors, exceptions and failed requests."""

    def __init__(self, profile: Path, *, width: int = 1400, height: int = 820) -> None:
        assert CHROMIUM is not None
        self.problems: list[str] = []
        self._profile = profile
        self._process = subprocess.Popen(
            [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._ids = itertools.count(1)
        self._stack = ExitStack()
        self._stack.callback(self._end)
        try:
            self._socket = self._stack.enter_context(connect(self._page_url(), max_size=1 << 26))
        except BaseException:
            self.close()
            raise
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _page_url(self) -> str:
        """Where Chromium's first page speaks DevTools, once it does."""
        port_file = self._profile / "DevToolsActivePort"
        give_up = time.monotonic() + 30
        while time.monotonic() < give_up:
            if port_file.is_file() and (lines := port_file.read_text().split()):
                with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json/list", timeout=10) as answer:
                    pages = [target for target in json.load(answer) if target["type"] == "page"]
                if pages:
                    return str(pages[0]["webSocketDebuggerUrl"])
            time.sleep(0.1)
        raise TimeoutError("Chromium did not start")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One DevTools call; events that come in between are kept in `problems` where they are any."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=30))
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(message["error"]["message"])
                return dict(message["result"])
            self._note(message)

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.problems.append(str(parameters["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "warning", "assert"):
                self.problems.append(str(parameters["args"]))
            case "Log.entryAdded" if parameters["entry"]["level"] in ("error", "warning"):
                self.problems.append(str(parameters["entry"]))
            case "Network.loadingFailed":
                self.problems.append(str(parameters))

    def open(self, url: str) -> None:
        """Go to `url` and wait until it has loaded."""
        self.call("Page.navigate", url=url)
        self.wait_for(f"document.readyState === 'complete' && location.href.startsWith({url!r})")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(str(result["exceptionDetails"]))
        return result["result"].get("value")

    def text(self, selector: str) -> str:
        """The text of the first element that `selector` finds; "" where there is none."""
        return str(self.evaluate(f"document.querySelector({selector!r})?.textContent ?? ''"))

    def wait_for(self, expression: str, seconds: float = 30.0) -> None:
        """Until a JavaScript expression is true."""
        give_up = time.monotonic() + seconds
        while not self.evaluate(expression):
            if time.monotonic() > give_up:
                raise TimeoutError(f"still false after {seconds} s: {expression}")
            time.sleep(0.1)

    def screenshot(self, path: Path) -> None:
        """The page as a PNG file."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        self._stack.close()

    def _end(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def main() -> None:
    """`python -m tests.browser URL FILE [SECONDS]`: a picture of a page that has been open for a while."""
    url, file, *wait = sys.argv[1:]
    with tempfile.TemporaryDirectory() as profile, Browser(Path(profile), height=1000) as browser:
        browser.open(url)
        time.sleep(float(wait[0]) if wait else 10.0)
        browser.screenshot(Path(file))
        for problem in browser.problems:
            print(problem, file=sys.stderr)


if __name__ == "__main__":
    main()
