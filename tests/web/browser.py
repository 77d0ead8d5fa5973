"""What the browser tests share: a node in a process of its own, a Chromium, and people who use the page."""

import contextlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from playwright.sync_api import Browser, BrowserContext, Dialog, Locator, Page, expect, sync_playwright

from tests.nodes import free_port

CHROMIUM: Final = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
NO_CHROMIUM: Final = "no Chromium is installed (looked for chromium, chromium-browser, google-chrome)"
FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE_MS: Final = 15_000  # two shared cores; an expectation that holds is seen at once
PASSWORD: Final = "correct horse battery"


class Node:
    """A `hubbub serve` that can be killed and started again on the same port and data."""

    def __init__(self, data_dir: Path, *, module: str = "server.cli") -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment: dict[str, str] = {}  # more settings
        self._bot_port = free_port()
        self._data_dir = data_dir
        self._module = module
        self._process: subprocess.Popen[str] | None = None
        self._lines: list[str] = []

    def start(self) -> None:
        """Return once it listens."""
        process = subprocess.Popen(
            [sys.executable, "-m", self._module, "serve"],
            env=self._environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._process = process
        is_ready = threading.Event()
        threading.Thread(target=self._read, args=(process, is_ready), daemon=True).start()
        assert is_ready.wait(30), "the node did not start:\n" + "".join(self._lines)
        assert process.poll() is None, "the node ended at once:\n" + "".join(self._lines)

    def _environ(self) -> dict[str, str]:
        return os.environ | {
            "HUBBUB_DATA_DIR": str(self._data_dir),
            "HUBBUB_PORT": str(self.port),
            "HUBBUB_BOT_PORT": str(self._bot_port),
            "HUBBUB_LOG_FORMAT": "json",
            "HUBBUB_SIGN_UPS_PER_ADDRESS_PER_H": "1000000",
            **self.environment,
        }

    def make_key(self) -> tuple[str, str]:
        """Make a key for the backend of the people's app; returns key and secret."""
        made = subprocess.run(
            [sys.executable, "-m", "server.cli", "keys", "create", "--name", "backend", "--json"],
            env=self._environ(),
            check=True,
            capture_output=True,
            text=True,
        )
        key: dict[str, str] = json.loads(made.stdout)
        return key["app_key"], key["app_secret"]

    def _read(self, process: subprocess.Popen[str], is_ready: threading.Event) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._lines.append(line)
            if '"node_started"' in line:
                is_ready.set()
        is_ready.set()

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it as an operator would."""
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """Stop it in mid-air; its kernel goes on accepting. `kill` ends it also then."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def sign_up(self, name: str) -> dict[str, Any]:
        """Make an account by the API; returns what the page keeps in localStorage."""
        username = name.lower().replace(" ", ".")
        answer = httpx.post(
            f"{self.url}/v1/signup", json={"username": username, "password": PASSWORD, "name": name}
        )
        answer.raise_for_status()
        signed_in: dict[str, Any] = answer.json()
        return signed_in


@contextlib.contextmanager
def open_node(data_dir: Path, **settings: str) -> Iterator[Node]:
    """Run a node for as long as the block lasts; `settings`: more of its environment."""
    node = Node(data_dir)
    node.environment |= settings
    node.start()
    try:
        yield node
    finally:
        node.stop()


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Run a headless Chromium for as long as the block lasts."""
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Person:
    """Somebody at the page, in a browser of their own."""

    name: str
    user_id: str
    context: BrowserContext
    page: Page
    problems: list[str] = field(default_factory=list)

    def open_tab(self) -> Page:
        """Open the page once more: another device of the same log-in."""
        page = self.context.new_page()
        watch(page, self.problems)
        visit(page, self.page.url.split("#")[0])
        expect(page.locator("html[data-connection=open]")).to_be_attached()
        return page

    def start_direct(self, other: "Person") -> None:
        """Find the other by name and open the conversation with them."""
        self.page.get_by_role("button", name="New conversation").click()
        self.page.get_by_role("searchbox", name="Find people by name").fill(other.name[:6])
        self.page.get_by_role("dialog").get_by_role("button", name=other.name).first.click()
        expect(self.page.get_by_role("heading", name=other.name, level=1)).to_be_visible()

    def open(self, title: str) -> None:
        """Open a conversation from the list."""
        item(self.page, title).click()
        expect(self.page.get_by_role("heading", name=title, level=1)).to_be_visible()

    def send(self, text: str) -> None:
        """Write and press Enter; does not wait for the ack."""
        send(self.page, text)


def join_page(browser: Browser, node: Node, name: str, **context_options: Any) -> Person:
    """Sign somebody up and open the page for them."""
    signed_in = node.sign_up(name)
    context = browser.new_context(base_url=node.url, **context_options)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    problems: list[str] = []
    watch(page, problems)
    visit(page, "/icon.svg")  # any page of this origin: localStorage is filled before the page's code runs
    page.evaluate("kept => localStorage.setItem('hubbub.session', JSON.stringify(kept))", signed_in)
    visit(page, "/")
    expect(page.locator("html[data-connection=open]")).to_be_attached()
    return Person(name, signed_in["user"]["user_id"], context, page, problems)


def visit(page: Page, path: str) -> None:
    """Open a page as people do: who is turned away, as the node's loop lags (503), comes again when told to.

    Two nodes, a browser and another suite share two cores in CI; half a second of lag is not rare there.
    """
    for _ in range(5):
        response = page.goto(path)
        if response is None or response.status != 503:
            return
        page.wait_for_timeout(1000 * float(response.headers.get("retry-after", "1")))
    raise AssertionError(f"{path} is not served")


def watch(page: Page, problems: list[str]) -> None:
    """Collect what must not happen: uncaught exceptions and breaches of the content security policy."""
    page.on("pageerror", lambda error: problems.append(f"{error.name}: {error.message}\n{error.stack}"))
    page.on(
        "console",
        lambda line: problems.append(line.text) if "Content Security Policy" in line.text else None,
    )
    page.on("dialog", lambda dialog: refuse(dialog, problems))


def refuse(dialog: Dialog, problems: list[str]) -> None:
    """No part of the page opens an alert: one that shows up was smuggled in."""
    problems.append(f"dialog: {dialog.message}")
    dialog.dismiss()


def item(page: Page, title: str) -> Locator:
    """The line of the conversation list with that title."""
    return page.locator(".conversation-item", has=page.get_by_text(title, exact=True)).locator("button")


def send(page: Page, text: str) -> None:
    """Write into the open conversation and press Enter."""
    field_ = page.get_by_role("textbox", name="Message", exact=True)
    field_.fill(text)
    field_.press("Enter")


def message(page: Page, text: str) -> Locator:
    """The row of the message with that text, in the open conversation."""
    return page.locator(".conversation .message", has=page.locator(".text", has_text=text))


def texts(page: Page) -> list[str]:
    """The texts of all messages on the page, in the order in which they stand there."""
    return page.locator(".conversation .message .text").all_text_contents()


def png(width: int, height: int) -> bytes:
    """A valid picture of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))

    rows = (b"\0" + b"\x5b\x5b\xd6" * width) * height
    header = struct.pack("!IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
