"""A real Chromium, and pages whose every fault is noted: console errors, exceptions, requests to other hosts.

Debian's browser is driven by Playwright for Python; the one without windows is preferred, for it takes half the time.
One process serves the tests of a module; each test gets a context of its own (cookies, storage).
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

from tests.processes import ADMIN_KEY, GatewayProcess

AXE = Path(__file__).resolve().parent / "vendor" / "axe.min.js"
EXECUTABLES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
# Without these it looks for Google's hosts when it starts. As root, as in most containers, there is no sandbox.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
WAIT_MS = 5_000
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 740}


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """The browser. AssertionError that says how to get it when there is none."""
    found = next((path for name in EXECUTABLES if (path := shutil.which(name))), None)
    assert found is not None, (
        "chromium is not installed; scripts/install_packages.sh chromium-headless-shell installs it"
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


class Visitor:
    """Somebody with a browser of their own who looks at one gateway; `faults` is what no page may do."""

    def __init__(self, context: BrowserContext, gateway: GatewayProcess) -> None:
        self.context = context
        self.gateway = gateway
        self.faults: list[str] = []
        self.expected_faults: list[str] = []
        self.under_way: set[Request] = set()
        context.set_default_timeout(WAIT_MS)
        self.page = self.new_page()

    def new_page(self) -> Page:
        """Another tab."""
        page = self.context.new_page()
        page.on("console", self._note_console)
        page.on("pageerror", lambda error: self.faults.append(f"exception: {error}"))
        page.on("request", self._note_request)
        page.on("requestfinished", self._note_end)
        page.on("requestfailed", self._note_end)
        return page

    def expect(self, text: str) -> None:
        """A console error with this text is part of the test, such as the browser's own line about an answer of 401."""
        self.expected_faults.append(text)

    def unexpected_faults(self) -> list[str]:
        """Everything noted that was not expected."""
        return [fault for fault in self.faults if not any(text in fault for text in self.expected_faults)]

    def _note_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"{message.type}: {message.text} {message.location.get('url', '')}")

    def _note_request(self, request: Request) -> None:
        if not request.url.endswith("/admin/events"):  # which goes on for as long as the page is open
            self.under_way.add(request)
        address = urlsplit(request.url)
        if address.scheme in ("http", "https", "ws", "wss") and address.netloc != f"127.0.0.1:{self.gateway.port}":
            self.faults.append(f"a request to another host: {request.url}")

    def _note_end(self, request: Request) -> None:
        self.under_way.discard(request)

    def open(self, path: str) -> Page:
        """Go to a page of the gateway."""
        self.under_way.clear()
        self.page.goto(self.gateway.url + path)
        return self.page

    def settle(self) -> None:
        """Until the page has fetched and painted all it wants for now."""
        deadline_seconds = time.monotonic() + WAIT_MS / 1000
        while self.under_way:
            assert time.monotonic() < deadline_seconds, [request.url for request in self.under_way]
            self.page.wait_for_timeout(10)  # Playwright hears of answers while it waits.
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def sign_in(self, key: str = ADMIN_KEY) -> None:
        """Exchange the key for a session, as the form does."""
        answer = self.context.request.post(f"{self.gateway.url}/session", data={"key": key})
        assert answer.ok, answer.text()

    def serious_findings(self) -> list[str]:
        """What axe-core, by all its rules, finds on the present page that is serious or critical."""
        if not self.page.evaluate("'axe' in window"):
            # Evaluated, not added as a script: the pages' policy forbids those.
            self.page.evaluate(AXE.read_text(encoding="utf-8"))
        options = {"resultTypes": ["violations"], "preload": False}  # the styles it would fetch are there already
        results: dict[str, Any] = self.page.evaluate("options => window.axe.run(document, options)", options)
        return [
            f"{violation['id']} ({violation['impact']}): {node['html'][:160]} — {node['failureSummary'][:300]}"
            for violation in results["violations"]
            if violation["impact"] in ("serious", "critical")
            for node in violation["nodes"]
        ]
