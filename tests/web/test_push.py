"""A real service worker shows what the server pushes, and tells what became of it.

`pushManager.subscribe` asks the browser's maker for an address, which needs the internet: it alone is faked,
in the page. Pushes come in by Chromium's own DevTools, with the very bytes that the server encrypts for a
browser. A click on a shown notification is the one thing that DevTools cannot do: the worker's own event is
dispatched for it.
"""

import json
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, CDPSession, Worker, expect

from actors.notify.delivery import Outgoing, Target
from server.providers.webpush import webpush_payload
from tests.web.browser import Node, Person
from tests.web.conftest import Join
from tests.web.notify_app import AppBot, fake_subscription
from tests.web.test_feed import tell
from tests.web.test_notifications import badge, open_panel, open_settings, row

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]

# The page's part of subscribing: it remembers with which key, and gives an address as a browser would.
FAKE_PUSH_MANAGER = """
({ address, keys }) => {
  const kept = () => JSON.parse(localStorage.getItem("fake.push") || "null");
  const subscription = (made) => made && {
    endpoint: made.endpoint,
    toJSON: () => ({ endpoint: made.endpoint, keys }),
    unsubscribe: async () => { localStorage.removeItem("fake.push"); return true; },
  };
  PushManager.prototype.subscribe = async ({ userVisibleOnly, applicationServerKey }) => {
    const text = btoa(String.fromCharCode(...applicationServerKey));
    const key = text.replace(/[+]/g, "-").replace(/[/]/g, "_").replace(/=/g, "");
    const number = Number(localStorage.getItem("fake.number") || 0) + 1;
    localStorage.setItem("fake.number", number);
    const made = { endpoint: `${address}/${number}`, key, userVisibleOnly };
    localStorage.setItem("fake.push", JSON.stringify(made));
    return subscription(kept());
  };
  PushManager.prototype.getSubscription = async () => subscription(kept());
}
"""
SHOWN = """
async () => (await registration.getNotifications()).map((one) => ({
  title: one.title, body: one.body, icon: one.icon, badge: one.badge, tag: one.tag, data: one.data,
  silent: one.silent, renotify: one.renotify,
}))
"""
# Asking while one is being shown makes Chromium forget it, so the worker first tells that it has shown all.
COUNT_SHOWN = """
() => {
  const show = registration.showNotification.bind(registration);
  self.shown = { count: 0, oncount: () => {} };
  registration.showNotification = async (...words) => {
    try {
      return await show(...words);
    } finally {
      self.shown.count += 1;
      self.shown.oncount();
    }
  };
}
"""
ALL_SHOWN = """
(count) => new Promise((resolve) => {
  self.shown.oncount = () => { if (self.shown.count >= count) resolve(); };
  self.shown.oncount();
})
"""
# What the worker is told when a person clicks or closes. An event that a script made has no waitUntil of its
# own, and only a person's click may open windows: those addresses are noted.
ACT = """
async ([kind, isFocusable]) => {
  const [notification] = await registration.getNotifications();
  const event = new NotificationEvent(kind, { notification });
  const work = [];
  const opened = [];
  event.waitUntil = (promise) => work.push(promise);
  if (isFocusable) WindowClient.prototype.focus = async function focus() { return this; };
  clients.openWindow = async (url) => { opened.push(url); };
  if (kind === "notificationclose") notification.close();
  self.dispatchEvent(event);
  await Promise.all(work);
  return opened;
}
"""


class Pushed:
    """Somebody whose browser is pushed to."""

    def __init__(self, person: Person, origin: str) -> None:
        self.person = person
        self.origin = origin
        self.registration_id = ""
        self._delivered = 0
        # A page that stays: the person's own may be closed.
        self.aside = person.context.new_page()
        self.cdp: CDPSession = person.context.new_cdp_session(self.aside)
        self.cdp.on("ServiceWorker.workerRegistrationUpdated", self._registered)
        self.cdp.send("ServiceWorker.enable")
        person.page.bring_to_front()  # a tab that is not in front draws once a second

    def _registered(self, event: dict[str, Any]) -> None:
        for registration in event["registrations"]:
            if registration["scopeURL"].rstrip("/") == self.origin and not registration["isDeleted"]:
                self.registration_id = registration["registrationId"]

    def find_worker(self) -> None:
        """Wait until the worker runs and DevTools has told how it calls it."""
        self.person.page.evaluate("navigator.serviceWorker.ready.then(() => true)")
        for _ in range(300):
            if self.registration_id and self.person.context.service_workers:
                break
            self.aside.wait_for_timeout(10)
        assert self.registration_id
        self.worker.evaluate(COUNT_SHOWN)

    @property
    def worker(self) -> Worker:
        (worker,) = self.person.context.service_workers
        return worker

    def deliver(self, data: str) -> None:
        """Let a push arrive at the browser."""
        self.cdp.send(
            "ServiceWorker.deliverPushMessage",
            {"origin": self.origin, "registrationId": self.registration_id, "data": data},
        )
        self._delivered += 1

    def push(self, notification_id: int, delivery_id: str = "d1", **content: Any) -> None:
        """Push as the server does."""
        payload = webpush_payload(
            Outgoing(
                delivery_id=delivery_id,
                notification_id=notification_id,
                app_id="default",
                user_id=self.person.user_id,
                type="order",
                priority="medium",
                target=Target(device_key="d", channel="webpush", address="https://push.invalid/1"),
                **content,
            )
        )
        assert payload is not None
        self.deliver(payload.decode())

    def shown_now(self) -> list[dict[str, Any]]:
        shown: list[dict[str, Any]] = self.worker.evaluate(SHOWN)
        return shown

    def shown(self, count: int) -> list[dict[str, Any]]:
        """What the system shows, once each push has been shown and it is so many."""
        self.worker.evaluate(ALL_SHOWN, self._delivered)
        for _ in range(300):
            shown = self.shown_now()
            if len(shown) == count:
                break
            self.aside.wait_for_timeout(10)  # what closes them is another process
        assert len(shown) == count, shown
        return shown

    def act(self, kind: str, *, is_focusable: bool = False) -> list[str]:
        """Let a person click or close the first that is shown; returns which addresses were opened.

        Only a person's click may give a page the focus: `is_focusable` lets the worker go on as after one.
        """
        opened: list[str] = self.worker.evaluate(ACT, [kind, is_focusable])
        return opened


def turn_on(person: Person, name: str) -> None:
    """Switch push on by the page, with a subscription that the page is told is real."""
    person.context.add_init_script(f"({FAKE_PUSH_MANAGER})({json.dumps(fake_subscription(name))})")
    person.context.grant_permissions(["notifications"])
    person.page.reload()
    open_settings(person)
    person.page.get_by_role("switch", name=re.compile("^Push to this browser")).check()
    expect(person.page.get_by_role("region", name="Where you can be reached")).to_contain_text("this one")


@pytest.fixture
def pushed(app_node: Node, join: Join, request: pytest.FixtureRequest) -> Pushed:
    """A person who has turned push on, with a worker that runs."""
    name = request.node.name.split("_")[-1].title()
    person = join(app_node, f"Ann {name}")
    found = Pushed(person, app_node.url)
    turn_on(person, name)
    found.find_worker()
    return found


def test_turning_push_on_registers_this_browser_and_off_takes_it_away(app_node: Node, join: Join) -> None:
    """The server's key signs; the list names the browser; whoever logs out is not pushed to any more."""
    ann = join(app_node, "Ann Subscribes")
    turn_on(ann, "subscribes")
    page = ann.page
    made = page.evaluate("JSON.parse(localStorage.getItem('fake.push'))")
    (preferences, devices) = tell(ann, {"type": "get_preferences"}, {"type": "list_push"})
    assert made["key"] == preferences["vapid_public_key"]
    assert made["userVisibleOnly"]
    (device,) = devices["items"]
    assert (device["channel"], device["name"]) == ("webpush", "Chrome on Linux")
    # After a restart the browser has another address: the old one goes.
    page.evaluate("localStorage.removeItem('fake.push')")
    page.reload()
    expect(page.get_by_role("region", name="Where you can be reached")).to_contain_text("this one")
    for _ in range(100):
        (renewed,) = tell(ann, {"type": "list_push"})[0]["items"][-1:]
        if renewed["device_key"] != device["device_key"]:
            break
    page.get_by_role("switch", name=re.compile("^Push to this browser")).uncheck()
    expect(page.get_by_role("region", name="Where you can be reached")).to_contain_text(
        "Nowhere but in the app."
    )
    assert tell(ann, {"type": "list_push"})[0]["items"] == []
    page.get_by_role("switch", name=re.compile("^Push to this browser")).check()
    expect(page.get_by_role("region", name="Where you can be reached")).to_contain_text("this one")
    assert len(tell(ann, {"type": "list_push"})[0]["items"]) == 1
    page.get_by_role("button", name="Back").click()
    page.get_by_role("link", name="Chat").click()
    page.get_by_role("button", name="Your profile and settings").click()
    page.get_by_role("menuitem", name="Log out").click()
    expect(page.get_by_role("button", name="Log in")).to_be_visible()
    assert page.evaluate("localStorage.getItem('fake.push')") is None
    assert page.evaluate("localStorage.getItem('hubbub.push')") is None


def test_a_push_is_shown_with_all_that_the_server_sent(pushed: Pushed) -> None:
    """Title, words, pictures, tag and data; a delivery that comes twice is one, and rings once."""
    pushed.person.page.close()  # whoever looks at it hears nothing
    pushed.push(
        7,
        title="Your order",
        body="Two parcels",
        url="/#feed",
        image="/icon-192.png",
        data={"order": "12"},
        badge=3,
        collapse_key="order-12",
    )
    (shown,) = pushed.shown(1)
    assert (shown["title"], shown["body"], shown["tag"]) == ("Your order", "Two parcels", "order-12")
    assert shown["icon"] == f"{pushed.origin}/icon-192.png"
    assert shown["badge"] == f"{pushed.origin}/badge-96.png"
    assert shown["data"] == {
        "order": "12",
        "url": "/#feed",
        "notification_id": 7,
        "delivery_id": "d1",
        "click_url": "",
    }
    assert (shown["silent"], shown["renotify"]) == (False, False)
    pushed.push(7, title="Your order", body="Two parcels", collapse_key="order-12")
    pushed.push(8, "d2", title="Another")
    repeated, another = sorted(pushed.shown(2), key=lambda one: str(one["body"]), reverse=True)
    assert (repeated["body"], repeated["silent"], repeated["renotify"]) == ("Two parcels", True, False)
    assert another["title"] == "Another"
    pushed.push(9, "d3", title="Your order", body="Three parcels", collapse_key="order-12")
    pushed.push(10, "d4", title="Last", body="!")
    last, news, _ = sorted(pushed.shown(3), key=lambda one: -one["data"]["notification_id"])
    assert last["title"] == "Last"
    assert (news["body"], news["silent"], news["renotify"]) == ("Three parcels", False, True)


def test_something_is_shown_for_any_push_at_all(pushed: Pushed) -> None:
    """A browser takes the subscription away from a page that shows nothing."""
    pushed.deliver("")
    pushed.deliver("not json")
    pushed.deliver("[1]")
    pushed.deliver('{"title": "Right"}')
    titles = sorted(one["title"] for one in pushed.shown(4))
    assert titles == ["Right", "hubbub", "hubbub", "hubbub"]


def test_a_click_opens_the_address_in_the_open_page_and_marks_it(pushed: Pushed, bot: AppBot) -> None:
    """One tap: the page that is open goes there, and no device shows it as new."""
    page = pushed.person.page
    notification_id = bot.notify(pushed.person.user_id, "Look here", url="/#trends")
    badge(page, 1)
    pushed.push(notification_id, title="Look here", url="/#trends")
    (shown,) = pushed.shown(1)
    assert shown["silent"]  # who looks at the page has seen it come
    assert pushed.act("notificationclick") == []
    expect(page.get_by_role("heading", name="Discover", level=1)).to_be_visible()
    badge(page, 0)
    pushed.shown(0)


def test_a_click_without_a_page_is_told_by_the_page_that_opens_next(pushed: Pushed, bot: AppBot) -> None:
    """The worker has no log-in: what it knows must not be lost with it."""
    ann = pushed.person
    inside = bot.notify(ann.user_id, "Inside", url="/#trends")
    badge(ann.page, 1)
    ann.page.close()
    pushed.push(inside, title="Inside", url="/#trends")
    pushed.shown(1)
    assert pushed.act("notificationclick") == [f"{pushed.origin}/#trends"]
    pushed.push(inside, "d2", title="Outside", url="https://shop.example/")
    pushed.shown(1)
    assert pushed.act("notificationclick") == ["https://shop.example/"]
    pushed.push(inside, "d3", title="Script", url="javascript:alert(1)")
    pushed.shown(1)
    assert pushed.act("notificationclick") == [f"{pushed.origin}/"]
    pushed.aside.goto(pushed.origin)
    badge(pushed.aside, 0)
    ann.page = pushed.aside
    (known,) = tell(ann, {"type": "list_notifications"})[0]["items"]
    assert known["read"]


def test_put_away_there_is_dismissed_here_and_read_here_is_put_away_there(
    pushed: Pushed, bot: AppBot
) -> None:
    """The system's list and the page's are one list to the person."""
    ann = pushed.person
    first, second = (bot.notify(ann.user_id, title) for title in ("First", "Second"))
    badge(ann.page, 2)
    pushed.push(first, title="First")
    pushed.shown(1)
    pushed.act("notificationclose")
    badge(ann.page, 1)
    open_panel(ann.page)
    expect(ann.page.locator(".notification-title")).to_have_text(["Second"])
    pushed.push(second, "d2", title="Second")
    pushed.shown(1)
    row(ann.page, "Second").get_by_role("button", name="Mark as read").click()
    pushed.shown(0)
    badge(ann.page, 0)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def own_page(tmp_path: Path) -> Iterator[str]:
    """The page of an app by another server, with the document's own worker; returns its address."""
    document = (Path(__file__).parent.parent.parent / "docs" / "WEB_PUSH.md").read_text()
    for name, code in re.findall(r"```js\n// (\S+)\n(.*?)```", document, re.DOTALL):
        (tmp_path / name).write_text(code)
    (tmp_path / "index.html").write_text("<!doctype html><title>Shop</title>")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_the_documents_own_page_and_worker_do_what_it_says(browser: Browser, own_page: str) -> None:
    """Whoever copies them has push."""
    with browser.new_context(base_url=own_page, permissions=["notifications"]) as context:
        subscription = fake_subscription("documented")
        context.add_init_script(f"({FAKE_PUSH_MANAGER})({json.dumps(subscription)})")
        page = context.new_page()
        shop = Pushed(Person("Ann", "u_ann", context, page), own_page)
        page.goto("/")
        asked = page.evaluate(
            """async () => {
              const { turnPushOn } = await import("/push.js");
              const asked = [];
              const isOn = await turnPushOn(async (command) => {
                asked.push(command);
                return { vapid_public_key: new Uint8Array([4, 1]) };
              });
              return [isOn, asked];
            }"""
        )
        assert asked[0]
        assert asked[1][1] == {
            "type": "register_push",
            "channel": "webpush",
            "address": f"{subscription['address']}/1",
            "keys": subscription["keys"],
            "name": "My browser",
        }
        shop.find_worker()
        shop.push(7, title="Your order", body="Two parcels", url="/index.html#parcels", data={"order": "12"})
        (shown,) = shop.shown(1)
        assert (shown["title"], shown["body"], shown["tag"]) == ("Your order", "Two parcels", "n7")
        assert shown["data"] == {
            "order": "12",
            "url": "/index.html#parcels",
            "click_url": "",
            "notification_id": 7,
        }
        page.evaluate(
            """() => {
              navigator.serviceWorker.onmessage = ({ data }) => { document.title = data.open; };
            }"""
        )
        shop.act("notificationclick", is_focusable=True)
        expect(page).to_have_title(f"{own_page}/index.html#parcels")
        shop.shown(0)
        shop.deliver("not json")
        assert shop.shown(1)[0]["title"] == "News"
