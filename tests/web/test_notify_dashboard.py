"""The notification dashboard in a real browser, on a real node that sends to the sandbox's providers."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from tests.nodes import free_port
from tests.web.browser import PATIENCE_MS, Node, open_node, watch

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(180)]


class Shop:
    """An app's backend with one type that goes by push, and the sandbox that takes it."""

    def __init__(self, node: Node, control_url: str, folder: Path, stack: ExitStack) -> None:
        self.node = node
        self.control = stack.enter_context(httpx.Client(base_url=control_url, timeout=20, trust_env=False))
        self.key, self.secret = node.make_key()
        self.api = stack.enter_context(
            httpx.Client(base_url=node.url, auth=(self.key, self.secret), timeout=20, trust_env=False)
        )
        config = json.loads((folder / "apns.json").read_text())
        self.call("PUT", "/v1/app/notify/providers/apple", {"config": config})
        rule = {"name": "order", "channels": ["apns"], "is_capped": False, "dedup_s": 0}
        self.call("PUT", "/v1/app/notify/types/order", rule)
        made = self.call("POST", "/v1/app/users", {"users": [{"external_id": "ann"}]})
        self.user_id: str = made["items"][0]["user"]["user_id"]
        address = {"channel": "apns", "address": f"{1:064x}"}
        self.call("POST", f"/v1/app/users/{self.user_id}/addresses", address)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.api.request(method, path, json=body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def order(self, **more: Any) -> int:
        """Notify Ann; returns the notification's id."""
        body = {"type": "order", "user_id": self.user_id, "text": "On its way", **more}
        done: int = self.call("POST", "/v1/notifications", body)["items"][0]["notification_id"]
        return done

    def inject(self, **fault: Any) -> None:
        self.control.post("/v1/faults", json={"channel": "apns", **fault}).raise_for_status()

    def wait_for(self, count: int) -> None:
        """Until so many pushes have arrived."""
        answer = self.control.get("/v1/deliveries/apns", params={"count": count}).json()
        assert answer["is_complete"], answer


@pytest.fixture
def shop_node(browser: Browser, tmp_path: Path) -> Iterator[Node]:
    """A node of one test, which may send to this machine and may be killed."""
    with open_node(tmp_path / "node", HUBBUB_NOTIFY_NETWORKS="127.0.0.0/8") as opened:
        yield opened


@pytest.fixture
def shop(shop_node: Node, tmp_path: Path) -> Iterator[Shop]:
    command = [sys.executable, "-m", "server.cli", "sandbox", "--json", "--port", "0", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sandbox:
        try:
            assert sandbox.stdout is not None
            addresses = json.loads(sandbox.stdout.readline())
            with ExitStack() as stack:
                yield Shop(shop_node, addresses["control_url"], tmp_path, stack)
        finally:
            sandbox.terminate()
            sandbox.communicate()


@pytest.fixture
def context(browser: Browser, shop_node: Node) -> Iterator[BrowserContext]:
    made = browser.new_context(base_url=shop_node.url, viewport={"width": 1280, "height": 1000})
    made.set_default_timeout(PATIENCE_MS)
    yield made
    made.close()


def open_page(context: BrowserContext, problems: list[str]) -> Page:
    page = context.new_page()
    watch(page, problems)
    page.goto("/notify.html")
    return page


def row(page: Page, section: str, text: str) -> Locator:
    """The line of a table with that text."""
    return page.locator(f"#{section} tbody tr", has_text=text)


def figure(page: Page, name: str) -> Locator:
    """The figure of one tile."""
    return page.locator(".tile", has_text=name).locator(".figure")


def log_in(page: Page, shop: Shop) -> None:
    """Change from the operator's view, which this machine gets at once, to the app's."""
    page.get_by_role("button", name="Change log-in").click()
    page.get_by_label("App key").fill(shop.key)
    page.get_by_label("App secret").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("The app key or its secret is wrong.")
    page.get_by_label("App secret").fill(shop.secret)
    page.keyboard.press("Enter")
    expect(page.get_by_text("App default")).to_be_visible()


def test_a_developer_sees_deliveries_appear_and_redrives_a_dead_letter(
    shop: Shop, context: BrowserContext, tmp_path: Path
) -> None:
    """The morning after: what went wrong, why, and trying it again, without another tool."""
    problems: list[str] = []
    page = open_page(context, problems)
    log_in(page, shop)
    expect(page.locator("#queues")).to_contain_text("Nothing waits to be delivered.")
    expect(figure(page, "Dead letters")).to_have_text("0")

    for _ in range(20):
        shop.order()
    shop.wait_for(20)
    expect(row(page, "providers", "apple")).to_contain_text("100 %")
    expect(row(page, "providers", "apple").locator("td").nth(3)).to_have_text("20")
    expect(row(page, "channels", "apns")).to_be_visible()  # the node has sampled its counters
    expect(page.get_by_role("img", name=re.compile("Delivered by apns, last"))).to_be_visible()

    shop.inject(status=400, code="BadTopic", times=1)
    dead = shop.order()
    expect(figure(page, "Dead letters")).to_have_text("1")
    expect(row(page, "dead", "BadTopic")).to_contain_text("apple")
    expect(row(page, "alerts", "BadTopic")).to_contain_text("nobody_to_tell")  # no webhook is set up
    page.screenshot(path=tmp_path / "light.png", full_page=True)
    button = page.get_by_role("button", name="Redrive BadTopic of apns")
    button.focus()
    for _ in range(2):  # looks later it still is where it was
        with page.expect_response("**/v1/app/notify/dashboard"):
            pass
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#announcer")).to_have_text("1 delivery is tried again.")
    shop.wait_for(21)
    expect(figure(page, "Dead letters")).to_have_text("0")
    expect(page.locator("#dead")).to_contain_text("Nothing was given up.")

    page.get_by_label("Notification id").fill(str(dead))
    page.keyboard.press("Enter")
    expect(page.locator(".stages")).to_contain_text("BadTopic")
    expect(page.locator(".stages .decision", has_text="redrive")).to_be_visible()
    expect(page.locator(".deliveries")).to_contain_text("accepted")
    page.get_by_label("Notification id").fill("12")
    page.keyboard.press("Enter")
    expect(page.locator("#explain .form-message")).to_have_text("There is no notification 12.")

    page.get_by_role("button", name="Pause apple").click()
    expect(row(page, "providers", "apple")).to_contain_text("paused")
    shop.order(priority="high")
    expect(row(page, "queues", "high")).to_contain_text("apns")
    expect(figure(page, "Waiting")).to_have_text("1")
    page.get_by_role("button", name="Resume apple").click()
    shop.wait_for(22)
    expect(figure(page, "Waiting")).to_have_text("0")
    page.emulate_media(color_scheme="dark")
    page.screenshot(path=tmp_path / "dark.png", full_page=True)
    page.set_viewport_size({"width": 390, "height": 800})
    page.screenshot(path=tmp_path / "phone.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390

    page.reload()
    expect(page.get_by_text("App default")).to_be_visible()  # the same tab knows the log-in
    assert page.evaluate("localStorage.length") == 0
    other = open_page(context, problems)
    expect(other.get_by_text("All apps of this server")).to_be_visible()  # another one does not
    page.get_by_role("button", name="Log out").click()
    page.reload()
    expect(page.get_by_text("All apps of this server")).to_be_visible()
    assert not problems, "\n".join(problems)


def test_an_operator_sees_all_apps_and_what_happens_when_the_node_is_gone(
    shop: Shop, context: BrowserContext
) -> None:
    """On the machine itself nothing is asked for; a dead server is told, and found again by itself."""
    problems: list[str] = []
    page = open_page(context, problems)
    expect(page.get_by_text("All apps of this server")).to_be_visible()
    shop.order()
    expect(row(page, "providers", "apple")).to_contain_text("default")
    shop.order(send_at="2090-01-01T09:00:00Z")
    expect(figure(page, "Held back")).to_have_text("1")
    expect(page.get_by_role("button", name=re.compile("^(Redrive|Pause apple)"))).to_have_count(0)

    page.get_by_role("button", name="Pause updates").click()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    shop.order(send_at="2090-01-01T09:00:00Z")
    page.wait_for_timeout(2_500)  # longer than from one look to the next
    assert asked == []
    expect(figure(page, "Held back")).to_have_text("1")
    page.get_by_role("button", name="Resume updates").click()
    expect(figure(page, "Held back")).to_have_text("2")

    shop.node.kill()
    expect(page.get_by_role("alert").filter(has_text="cannot be reached")).to_be_visible()
    expect(figure(page, "Held back")).to_have_text("2")  # what was known stays
    shop.node.start()
    expect(page.locator(".problem")).to_be_empty()
    expect(figure(page, "Held back")).to_have_text("2")
    assert not problems, "\n".join(problems)


# What the server tells, shown once more as if the second node had not answered.
ONE_IS_MISSING = """async () => {
  const told = await (await fetch("/v1/notify/dashboard")).json();
  const { makeBoard } = await import("/js/dashboard/board.js");
  told.nodes = told.nodes.map((line) => ({ ...line, is_missing: line.node_id === "two" }));
  told.providers.lines = [{
    app_id: "default", channel: "apns", provider_id: "apple", kind: "apns", position: 0, is_paused: false,
    breaker: "open", breakers: { one: "open" }, pace: 0.25, pause_s: 12,
    success: null, p50_ms: null, p99_ms: null,
    accepted_count: 0, refused_count: 0, unknown_count: 0, dead_count: 0, bounced_count: 0, doubled_count: 0,
  }];
  const root = document.createElement("div");
  root.id = "trial";
  document.body.append(root);
  makeBoard(root, { isApp: false, does: { api: {} } }).show(told);
}"""


def test_the_page_tells_of_all_nodes_and_which_of_them_do_not_answer(
    browser: Browser, tmp_path: Path
) -> None:
    """Two real nodes: whichever address somebody has, the figures are of both, or the page says so."""
    problems: list[str] = []
    settings = [
        {"HUBBUB_NODE_ID": name, "HUBBUB_CLUSTER": "true", "HUBBUB_CLUSTER_PORT": str(free_port(2))}
        for name in ("one", "two")
    ]
    with open_node(tmp_path, **settings[0]) as one, open_node(tmp_path, **settings[1]) as two:
        for node in (one, two):
            page = browser.new_page(base_url=node.url)
            page.set_default_timeout(PATIENCE_MS)
            watch(page, problems)
            page.goto("/notify.html")
            expect(page.locator("#nodes tbody tr", has_text="answers")).to_have_count(2)
            expect(page.locator(".updated")).to_contain_text("of 2 nodes")
            page.evaluate(ONE_IS_MISSING)
            trial = page.locator("#trial")
            expect(trial.locator("#nodes tbody tr", has_text="two")).to_contain_text("no answer")
            expect(trial.locator(".updated")).to_contain_text("of 1 of 2 nodes")
            expect(trial.locator("#nodes .note")).to_contain_text("No answer from two")
            expect(trial.locator("#providers tbody tr")).to_contain_text("open")
            for words in ("on one", "waits 12 s", "pace 25 %"):
                expect(trial.locator("#providers tbody tr")).to_contain_text(words)
            page.close()
    assert not problems, "\n".join(problems)
