"""A real browser for tests: headless Chromium, asked over a pipe by its own protocol; no package in between."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

CHROMIUM: Final = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser: Final = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
_OPTIONS: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip


_WAIT_S: Final = 60  # of a busy machine


class Page:
    """One open page."""

    def __init__(self, asks: int, answers: int) -> None:
        self._asks, self._answers, self._session, self._last, self._rest = asks, answers, "", 0, b""
        self._complaints: list[str] = []
        self._loaded = False

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the DevTools protocol, and its result."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._asks, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._heard()
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                found: dict[str, Any] = answer["result"]
                return found

    def _heard(self) -> dict[str, Any]:
        """The next thing that the browser tells: an answer, or what has happened."""
        while b"\0" not in self._rest:
            assert select.select([self._answers], [], [], _WAIT_S)[0], f"the browser says nothing for {_WAIT_S} s"
            read = os.read(self._answers, 1 << 16)
            assert read, "the browser is gone"
            self._rest += read
        text, _, self._rest = self._rest.partition(b"\0")
        told: dict[str, Any] = json.loads(text)
        match told.get("method"), told.get("params", {}):
            case "Page.loadEventFired", _:
                self._loaded = True
            case "Runtime.exceptionThrown", {"exceptionDetails": details}:
                self._complaints.append(json.dumps(details))
            case "Log.entryAdded", {"entry": {"level": "error", "text": said, **more}}:
                self._complaints.append(f"{said} {more.get('url', '')}")
            case "Runtime.consoleAPICalled", {"type": "error", "args": said}:
                self._complaints.append(json.dumps(said))
        return told

    def complaints(self) -> list[str]:
        """What the console has shown as an error since this was last asked."""
        self.evaluate("0")  # what came before has been heard by then
        heard, self._complaints = self._complaints, []
        return heard

    def evaluate(self, expression: str) -> Any:
        """What an expression in the page comes to; of a promise, what it keeps."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression: str) -> Any:
        """What an expression comes to, once that is true of it."""
        return self.evaluate(
            f"""(async () => {{
                for (const end = Date.now() + {500 * _WAIT_S}; Date.now() < end; ) {{
                    const found = await ({expression});
                    if (found) return found;
                    await new Promise((go) => setTimeout(go, 10));
                }}
                throw new Error({json.dumps(f"not within {_WAIT_S / 2:g} s: {expression}")});
            }})()"""
        )

    def press(self, *keys: str) -> None:
        """Keys of a keyboard, each down and up, to what has the focus."""
        for key in keys:
            what = {"key": key, "code": f"Key{key.upper()}" if key.isalpha() and len(key) == 1 else key}
            if len(key) == 1:
                what["text"] = key
            self.call("Input.dispatchKeyEvent", type="keyDown", **what)
            self.call("Input.dispatchKeyEvent", type="keyUp", **what)

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def prefer(self, **wishes: str) -> None:
        """What whoever looks prefers, such as `color_scheme="dark"`."""
        features = [{"name": f"prefers-{wish.replace('_', '-')}", "value": value} for wish, value in wishes.items()]
        self.call("Emulation.setEmulatedMedia", features=features)

    def goto(self, url: str) -> None:
        """Another page, loaded; one that differs in its fragment alone is loaded anew as well."""
        for each in ("about:blank", url):
            self._loaded = False
            self.call("Page.navigate", url=each)
            while not self._loaded:
                self._heard()

    def attach(self, url: str, width: int, height: int) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.resize(width, height)
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.goto(url)


@contextmanager
def opened(url: str, profile: Path, *, width: int = 1280, height: int = 900) -> Iterator[Page]:
    """A page in a browser of its own, whose profile is a new folder."""
    assert CHROMIUM is not None
    ends = [*os.pipe(), *os.pipe()]
    their_in, our_out, our_in, their_out = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)

    def as_it_expects() -> None:
        """The browser reads commands from descriptor 3 and answers on 4."""
        os.dup2(their_in, 3)
        os.dup2(their_out, 4)

    browser = subprocess.Popen(
        [CHROMIUM, *_OPTIONS, f"--user-data-dir={profile}"],
        preexec_fn=as_it_expects,
        pass_fds=(3, 4),
        stderr=subprocess.DEVNULL,
    )
    os.close(their_in)
    os.close(their_out)
    page = Page(our_out, our_in)
    try:
        page.attach(url, width, height)
        yield page
    finally:
        browser.kill()
        browser.wait()
        os.close(our_out)
        os.close(our_in)
