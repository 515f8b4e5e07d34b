"""A headless Chromium that tests type into: its pages, driven by the DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

_SECONDS = 60
DESK, PHONE = (1280, 900), (390, 844)
"""Pixels of two screens."""


class Tab:
    """A page of the browser."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self.requested: list[str] = []
        """The addresses that the page has asked for."""
        self.complaints: list[str] = []
        """What the browser's console says: errors, and what a policy has refused."""
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return what it answers."""
        number = self._send(method, parameters)
        while True:
            message = json.loads(self._connection.recv(_SECONDS))
            self._note(message)
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    def _send(self, method: str, parameters: dict[str, Any]) -> int:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._connection.send(json.dumps(message))
        return self._number

    def _note(self, message: dict[str, Any]) -> None:
        given = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requested.append(given["request"]["url"])
            case "Log.entryAdded":
                self.complaints.append(given["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(given["exceptionDetails"]))
            case "Page.javascriptDialogOpening":
                self.complaints.append(f"dialog: {given['message']}")
                self._send("Page.handleJavaScriptDialog", {"accept": True})  # it holds the page up

    def open(self, address: str, size: tuple[int, int] = DESK, *, scripts: bool = True) -> None:
        """Open a page on a screen of some size and wait until it is loaded."""
        width, height = size
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=size == PHONE,
        )
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.call("Page.navigate", url=address)
        self.wait("document.readyState == 'complete' && location.href != 'about:blank'")

    def wait(self, condition: str) -> None:
        """Wait until an expression in the page is true."""
        end = time.monotonic() + _SECONDS
        while not self.run(condition):
            assert time.monotonic() < end, f"never: {condition}"
            time.sleep(0.05)

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def type(self, selector: str, text: str) -> None:
        """Type into an input, in place of what it holds, as a keyboard does."""
        self.run(f"(e => {{ e.focus(); e.select(); }})(document.querySelector({selector!r}))")
        if text:
            self.call("Input.insertText", text=text)
        else:
            self.call(
                "Input.dispatchKeyEvent", type="keyDown", key="Delete", windowsVirtualKeyCode=46
            )

    def choose(self, selector: str, value: str) -> None:
        """Choose a value of a select."""
        self.run(
            f"(e => {{ e.value = {json.dumps(value)}; "
            "e.dispatchEvent(new Event('input', {bubbles: true})); "
            f"}})(document.querySelector({selector!r}))"
        )

    def click(self, selector: str) -> None:
        """Click on an element."""
        self.run(f"document.querySelector({selector!r}).click()")

    def texts(self, selector: str) -> list[str]:
        """Return the text of each element, as it is shown."""
        return self.run(
            f"[...document.querySelectorAll({selector!r})].map(e => e.textContent.trim())"
        )

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Write a picture of the page, of what the screen shows or of all of it."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))


def _command(profile: Path, *arguments: str) -> list[str]:
    """Return what starts a browser; the test is skipped where there is none."""
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("chromium is not on the PATH")
    command = [found, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={profile}", "--disable-background-networking", *arguments]
    return command


def dump(profile: Path, address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Open a page and return, as output, the document as the browser has it after its scripts, if
    any, have run."""
    command = _command(profile, *arguments, "--dump-dom", address)
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)


@contextmanager
def chromium(profile: Path) -> Iterator[Tab]:
    """Start a browser with a profile of its own."""
    command = _command(profile, "--hide-scrollbars", "--remote-debugging-port=0", "about:blank")
    # In a group of its own: the command is a script that starts the browser.
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, process_group=0) as process:
        try:
            with connect(_address(profile), max_size=None) as connection:
                yield Tab(connection)
                connection.send(json.dumps({"id": 0, "method": "Browser.close"}))
                process.wait(_SECONDS)
        finally:
            with suppress(ProcessLookupError):  # it has ended with all of its own
                os.killpg(process.pid, signal.SIGKILL)


def _address(profile: Path) -> str:
    """Return where the page listens, once the browser has written its port."""
    import httpx

    end, port = time.monotonic() + _SECONDS, profile / "DevToolsActivePort"
    while not port.exists() or "\n" not in port.read_text():
        assert time.monotonic() < end, "chromium does not start"
        time.sleep(0.05)
    listed = httpx.get(f"http://127.0.0.1:{port.read_text().split()[0]}/json/list", timeout=10)
    return next(of["webSocketDebuggerUrl"] for of in listed.json() if of["type"] == "page")
