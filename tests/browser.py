"""A headless Chromium that is told what to do through its own protocol, by pipes."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
)

# Chromium reads from descriptor 3 and writes to 4.
AS_3_AND_4 = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for number, end in zip((3, 4), ends):
    os.dup2(end, number)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find_chromium():
    found = [path for name in NAMES if (path := shutil.which(name))]
    if not found:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    return found[0]


class Page:
    """One tab; remembers what it asked for and what went wrong in it."""

    def __init__(self, reading, writing):
        self._reading, self._writing = reading, writing
        self._buffer, self._number, self._session = b"", 0, None
        self.requests, self.errors, self.seen = [], [], set()

    def call(self, method, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, url):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=url)
        end = time.monotonic() + 30
        while "Page.loadEventFired" not in self.seen:
            assert time.monotonic() < end, "the page did not load"
            self.call("Runtime.evaluate", expression="1")

    def evaluate(self, expression):
        """The value of a JavaScript expression, waited for if it is a promise."""
        answer = self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def _next(self):
        while b"\0" not in self._buffer:
            part = os.read(self._reading, 65536)
            assert part, "Chromium ended"
            self._buffer += part
        text, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(text)
        method, params = message.get("method"), message.get("params", {})
        self.seen.add(method)
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        if method == "Runtime.exceptionThrown":
            self.errors.append(params)
        if method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params)
        if method == "Runtime.consoleAPICalled" and params["type"] == "error":
            self.errors.append(params)
        return message


@contextmanager
def opened(url):
    """A page in a Chromium of its own, which is ended with it."""
    path = find_chromium()
    to_us, from_it = os.pipe()
    to_it, from_us = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [path, *FLAGS, f"--user-data-dir={profile}"]
        command += ["--remote-debugging-pipe", "about:blank"]
        process = subprocess.Popen(
            [sys.executable, "-c", AS_3_AND_4, str(to_it), str(from_it), *command],
            pass_fds=(to_it, from_it),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_it)
        os.close(from_it)
        try:
            page = Page(to_us, from_us)
            page.open(url)
            yield page
        finally:
            process.terminate()
            process.wait(20)
            os.close(to_us)
            os.close(from_us)
