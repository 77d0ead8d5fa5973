"""Notifications over HTTP: what an app's backend relies on."""

import base64
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from protocol.http_notify import ProviderBody
from server.config import Settings
from server.http.signatures import signature_of
from server.sandbox.faults import Fault
from server.sandbox.sandbox import Sandbox, open_sandbox
from tests.server.http_world import Api, code_of, open_api
from tests.server.notify.notify_world import apns_token

HUB = Settings(requests_per_s=10_000, requests_burst=10_000, public_url="https://hub.example")
Call = Callable[..., Awaitable[httpx.Response]]


class Hooks:
    """What an app's server was told: path, body, headers."""

    def __init__(self) -> None:
        self.url = ""
        self.received: list[tuple[str, bytes, dict[str, str]]] = []
        self.refuses: dict[str, int] = {}  # path -> the status of its answers
        self.retry_after = ""  # of what is refused
        self._news = trio.Event()

    def take(self, path: str, body: bytes, headers: dict[str, str]) -> None:
        self.received.append((path, body, headers))
        news, self._news = self._news, trio.Event()
        news.set()

    def at(self, path: str) -> list[bytes]:
        """The bodies that were posted there, taken or not."""
        return [body for where, body, _ in self.received if where == path]

    async def until_told(self, path: str, count: int) -> None:
        while len(self.at(path)) < count:
            await self._news.wait()

    async def until_told_at(self, *paths: str) -> None:
        while not set(paths) <= {path for path, _, _ in self.received}:
            await self._news.wait()


@asynccontextmanager
async def open_webhooks() -> AsyncIterator[Hooks]:
    """An app's own server, which takes whatever it is told."""

    hooks = Hooks()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await (await receive() and send({"type": "lifespan.startup.complete"}))
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        hooks.take(scope["path"], body, headers)
        status = hooks.refuses.get(scope["path"], 200)
        asked = hooks.retry_after if status != 200 else ""
        more = [(b"retry-after", asked.encode())] if asked else []
        await send({"type": "http.response.start", "status": status, "headers": more})
        await send({"type": "http.response.body", "body": b""})

    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    config.graceful_timeout = 0.1
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        binds = await nursery.start(partial(serve, app, config, shutdown_trigger=stop.wait))
        hooks.url = binds[0]
        yield hooks
        stop.set()
        nursery.cancel_scope.cancel()


class Backend:
    """An app's backend with its key and secret."""

    def __init__(self, api: Api, app_key: str, secret: str) -> None:
        self.api = api
        self.app_key = app_key
        self.secret = secret
        credentials = base64.b64encode(f"{app_key}:{secret}".encode()).decode()
        self.basic = {"authorization": f"Basic {credentials}"}

    async def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        return await self.api.call(method, path, headers=self.basic, **more)

    async def json(self, method: str, path: str, status: int = 200, **more: Any) -> Any:
        response = await self.call(method, path, **more)
        assert response.status_code == status, response.text
        return response.json() if response.content else None

    def signed(self, method: str, path: str, body: bytes, *, at_s: float, nonce: str = "n") -> dict[str, str]:
        timestamp = str(int(at_s))
        return {
            "content-type": "application/json",
            "x-hubbub-key": self.app_key,
            "x-hubbub-timestamp": timestamp,
            "x-hubbub-nonce": nonce,
            "x-hubbub-signature": signature_of(
                self.secret, timestamp=timestamp, nonce=nonce, method=method, path=path, body=body
            ),
        }

    async def user(self, external_id: str) -> str:
        made = await self.json("POST", "/v1/app/users", json={"users": [{"external_id": external_id}]})
        user_id: str = made["items"][0]["user"]["user_id"]
        return user_id

    async def until_done(self, notification_id: int) -> Any:
        while True:
            info = await self.json("GET", f"/v1/notifications/{notification_id}")
            if info["state"] not in ("open", "held"):
                return info
            await trio.sleep(0.01)


async def backend_of(api: Api, app_id: str = "default") -> Backend:
    key, secret = await api.accounts.create_app_key(app_id)
    return Backend(api, key.app_key, secret)


async def with_sandbox(backend: Backend, sandbox: Sandbox, *names: str) -> None:
    """Give the app the sandbox's accounts, over HTTP as a developer would."""
    configs = sandbox.configs()
    for name in names:
        body = msgspec.to_builtins(ProviderBody(config=getattr(configs, name)))
        await backend.json("PUT", f"/v1/app/notify/providers/{name}", json=body)


async def test_a_notification_is_sent_and_explained(tmp_path: Path) -> None:
    """The first quarter of an hour of a new developer."""
    async with open_sandbox() as sandbox, open_api(tmp_path) as api:
        backend = await backend_of(api)
        await with_sandbox(backend, sandbox, "apns")
        ann = await backend.user("ann")
        await backend.json(
            "POST", f"/v1/app/users/{ann}/addresses", json={"channel": "apns", "address": apns_token(1)}
        )
        rule = {"name": "order", "title": "Orders", "is_capped": False}
        await backend.json("PUT", "/v1/app/notify/types/order", json=rule)
        accepted = await backend.json(
            "POST",
            "/v1/notifications",
            202,
            json={"type": "order", "external_ids": ["ann"], "title": "Shipped", "text": "It is on its way."},
        )
        (item,) = accepted["items"]
        await sandbox.wait_for("apns", 1)
        await backend.until_done(item["notification_id"])
        told = await backend.json("GET", f"/v1/notifications/{item['notification_id']}/explain")
        stages = [decision[0] for entry in told["ledger"] for decision in entry["decisions"]]
        assert stages[0] == "validate"
        assert {"deduplicate", "enqueue", "attempt", "result"} <= set(stages)
        assert told["deliveries"][0]["state"] == "accepted"
        page = await backend.json("GET", f"/v1/app/users/{ann}/notifications")
        assert [found["notification_id"] for found in page["items"]] == [item["notification_id"]]
        lines = (await backend.call("GET", "/v1/app/notify/events")).text.splitlines()
        # The first attempt is part of the decision, where a hand is free at that moment.
        kinds = [kind for line in lines if (kind := msgspec.json.decode(line)["kind"]) != "attempted"]
        assert kinds == ["decided", "concluded"]
        cursor = msgspec.json.decode(lines[-1])["cursor"]
        assert (await backend.call("GET", f"/v1/app/notify/events?after={cursor}")).text == ""


async def test_a_key_in_the_header_is_used_whole_or_refused(tmp_path: Path) -> None:
    """Keys are often made of a prefix and a number: cut off, two of them would be the same."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        wanted = {"type": "contact", "user_id": await backend.user("ann"), "text": "x"}

        async def notify(key: str) -> httpx.Response:
            headers = backend.basic | {"idempotency-key": key}
            return await api.call("POST", "/v1/notifications", json=wanted, headers=headers)

        assert (await notify("k" * 64)).status_code == 202
        assert (await notify("k" * 64)).json()["repeated"]
        assert code_of(await notify("k" * 64 + "2")) == (400, "bad_field")


async def test_one_click_unsubscribes_from_a_type_and_only_a_post_does(tmp_path: Path) -> None:
    """Mail providers demand it (RFC 8058), and their scanners follow every link."""
    async with open_sandbox() as sandbox, open_api(tmp_path, settings=HUB) as api:
        backend = await backend_of(api)
        await with_sandbox(backend, sandbox, "smtp")
        ann = await backend.user("ann")
        await backend.json(
            "POST",
            f"/v1/app/users/{ann}/addresses",
            json={"channel": "email", "address": "ann@example.org"},
        )
        rule = {"name": "marketing", "channels": ["email"]}
        await backend.json("PUT", "/v1/app/notify/types/marketing", json=rule)
        wanted = {
            "type": "marketing",
            "user_id": ann,
            "title": "Sale",
            "text": "Now",
            "url": "https://a.example",
        }
        await backend.json("POST", "/v1/notifications", 202, json=wanted)
        (mail,) = await sandbox.wait_for("smtp", 1)
        headers = {name.lower(): value for name, value in mail.content["headers"]}
        link = headers["list-unsubscribe"].strip("<>").removeprefix("https://hub.example")
        assert headers["list-unsubscribe-post"] == "List-Unsubscribe=One-Click"
        assert (await api.call("GET", link)).status_code == 200
        wishes = await backend.json("GET", f"/v1/app/users/{ann}/preferences")
        assert wishes["preferences"] == {}
        done = await api.call("POST", link, content=b"List-Unsubscribe=One-Click")
        assert done.status_code == 200, done.text
        wishes = await backend.json("GET", f"/v1/app/users/{ann}/preferences")
        assert wishes["preferences"]["types"]["marketing"]["channels"] == {"email": False}
        told = await backend.json("POST", "/v1/notifications", 202, json=wanted | {"text": "Later"})
        assert told["items"][0]["state"] == "dropped"
        assert code_of(await api.call("POST", link[:-2] + "xx")) == (404, "bad_link")


@pytest.mark.parametrize(
    "html",
    [
        "<!doctype html><html><body><p>Hi</p></body></html>",
        '<html><body><a href="{{ unsubscribe_url }}">No more</a> Hi</body></html>',
        '<p>Hi</p><p><a href="{{ unsubscribe_url }}">No more</a></p>',
        "<p>Hi</p>",
    ],
)
async def test_a_mail_of_ones_own_making_can_be_unsubscribed_from_and_counts(
    tmp_path: Path, html: str
) -> None:
    """Law asks for the link, and an experiment for the openings, whoever has written the page."""
    async with open_sandbox() as sandbox, open_api(tmp_path, settings=HUB) as api:
        backend = await backend_of(api)
        await with_sandbox(backend, sandbox, "smtp")
        ann = await backend.user("ann")
        address = {"channel": "email", "address": "ann@example.org"}
        await backend.json("POST", f"/v1/app/users/{ann}/addresses", json=address)
        await backend.json("PUT", "/v1/app/notify/types/news", json={"name": "news", "channels": ["email"]})
        texts = {
            "default": {
                "en": {"default": {"title": "News", "body": "N"}, "email": {"title": "News", "html": html}}
            }
        }
        await backend.json("PUT", "/v1/app/notify/templates/page", json={"name": "page", "texts": texts})
        wanted = {"type": "news", "user_id": ann, "template": "page"}
        accepted = await backend.json("POST", "/v1/notifications", 202, json=wanted)
        (mail,) = await sandbox.wait_for("smtp", 1)
        shown = mail.content["html"].partition("</body>")[0]
        assert shown.lower().count("<body") == 1
        assert (
            shown.count("https://hub.example/n/u/")
            == mail.content["text"].count("https://hub.example/n/u/")
            == 1
        )
        start = shown.index("https://hub.example/n/o/")
        pixel = shown[start : shown.index('"', start)].removeprefix("https://hub.example")
        assert (await api.call("GET", pixel)).status_code == 200
        info = await backend.json("GET", f"/v1/notifications/{accepted['items'][0]['notification_id']}")
        assert info["opened_at_ms"] > 0


@pytest.mark.parametrize("mark", ["opened", "clicked"])
async def test_what_a_reader_does_with_a_mail_is_tracked(tmp_path: Path, mark: str) -> None:
    """Opens and clicks are what experiments are judged by."""
    async with open_sandbox() as sandbox, open_api(tmp_path, settings=HUB) as api:
        backend = await backend_of(api)
        await with_sandbox(backend, sandbox, "smtp")
        ann = await backend.user("ann")
        await backend.json(
            "POST",
            f"/v1/app/users/{ann}/addresses",
            json={"channel": "email", "address": "ann@example.org"},
        )
        await backend.json("PUT", "/v1/app/notify/types/news", json={"name": "news", "channels": ["email"]})
        wanted = {"type": "news", "user_id": ann, "title": "T", "text": "B", "url": "https://a.example/x?y=1"}
        accepted = await backend.json("POST", "/v1/notifications", 202, json=wanted)
        (mail,) = await sandbox.wait_for("smtp", 1)
        html = mail.content["html"]
        start = html.index(f"https://hub.example/n/{mark[0]}/")
        link = html[start : html.index('"', start)].removeprefix("https://hub.example")
        response = await api.call("GET", link, follow_redirects=False)
        if mark == "clicked":
            assert response.headers["location"] == "https://a.example/x?y=1"
        else:
            assert response.headers["content-type"] == "image/gif"
        info = await backend.json("GET", f"/v1/notifications/{accepted['items'][0]['notification_id']}")
        assert info[f"{mark}_at_ms"] > 0


async def test_a_click_in_the_browser_is_tracked_by_the_address_that_the_push_carries(tmp_path: Path) -> None:
    """A service worker is not logged in: what it can tell is what the push itself lets it tell."""
    async with open_sandbox() as sandbox, open_api(tmp_path, settings=HUB) as api:
        backend = await backend_of(api)
        await with_sandbox(backend, sandbox, "webpush")
        ann = await backend.user("ann")
        made = sandbox.webpush.subscribe("")
        address = {
            "channel": "webpush",
            "address": made.endpoint,
            "keys": {"p256dh": made.p256dh, "auth": made.auth},
        }
        await backend.json("POST", f"/v1/app/users/{ann}/addresses", json=address)
        rule = {"name": "news", "channels": ["webpush"], "dedup_s": 0}
        await backend.json("PUT", "/v1/app/notify/types/news", json=rule)
        for count, (url, leads_to) in enumerate(
            [
                ("https://a.example/x?y=1", "https://a.example/x?y=1"),
                ("/#trends", "https://hub.example/#trends"),
                ("#c/cv_1", "https://hub.example/#c/cv_1"),
                ("", "https://hub.example/"),
            ],
            1,
        ):
            wanted = {"type": "news", "user_id": ann, "title": "T", "text": "B", "url": url}
            accepted = await backend.json("POST", "/v1/notifications", 202, json=wanted)
            pushed = (await sandbox.wait_for("webpush", count))[-1].content["payload"]
            link = pushed["click_url"].removeprefix("https://hub.example")
            response = await api.call("GET", link, follow_redirects=False)
            assert response.headers["location"] == leads_to
            info = await backend.json("GET", f"/v1/notifications/{accepted['items'][0]['notification_id']}")
            assert info["clicked_at_ms"] > 0


async def test_consent_that_is_withdrawn_erases_what_rested_on_it(tmp_path: Path) -> None:
    """Data protection law gives no time: what is queued must not be sent, what was sent must be gone."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        ann = await backend.user("ann")
        rule = {"name": "marketing", "purpose": "ads", "channels": ["inapp"]}
        await backend.json("PUT", "/v1/app/notify/types/marketing", json=rule)
        wanted = {"type": "marketing", "user_id": ann, "title": "Sale", "text": "Secret sale"}
        refused = await backend.json("POST", "/v1/notifications", 202, json=wanted)
        assert refused["items"][0]["state"] == "dropped"
        consent = {"given": True, "source": "form 7"}
        await backend.json("PUT", f"/v1/app/users/{ann}/consents/ads", json=consent)
        await backend.json("POST", "/v1/notifications", 202, json=wanted)
        later = wanted | {"text": "Later", "send_at": "2099-01-01T09:00"}
        held = await backend.json("POST", "/v1/notifications", 202, json=later)
        assert held["items"][0]["state"] == "held"
        wishes = await backend.json("PUT", f"/v1/app/users/{ann}/consents/ads", json={"given": False})
        assert wishes.get("consents", []) == []
        data = await backend.json("GET", f"/v1/app/users/{ann}/notification_data")
        assert data["centre"] == []
        assert {item["state"] for item in data["notifications"]} == {"erased"}
        database = (tmp_path / "hubbub.db").read_bytes() + (tmp_path / "hubbub.db-wal").read_bytes()
        rows = await api.store.notify.history(ann, before=0, limit=10)
        assert not any(row.title or row.text or row.content for row in rows)
        assert database
        receipt = await backend.json("DELETE", f"/v1/app/users/{ann}/notification_data")
        assert receipt["erasure_id"].startswith("er_")


async def test_users_addresses_and_groups_come_from_files(tmp_path: Path) -> None:
    """How an app with a million users begins; a wrong line costs that line."""
    async with open_sandbox() as sandbox, open_api(tmp_path) as api:
        backend = await backend_of(api)
        await with_sandbox(backend, sandbox, "apns", "smtp")

        async def load(kind: str, text: str, media_type: str) -> list[Any]:
            headers = backend.basic | {"content-type": media_type}
            response = await api.call(
                "POST", f"/v1/app/import/{kind}", content=text.encode(), headers=headers
            )
            assert response.status_code == 200, response.text
            return [msgspec.json.decode(line) for line in response.text.splitlines()]

        rows = "".join(f"u{number},User {number},u{number}@example.org\n" for number in range(1200))
        told = await load("users", f"external_id,name,email\n{rows},Nobody,x\n", "text/csv")
        assert [report["done"] for report in told] == [500, 1000, 1200, 1200]
        assert told[2]["errors"] == [
            {"line": 1202, "code": "bad_field", "message": "external_id has 1 to 128 characters."}
        ]
        assert told[-1]["finished"]
        again = await load("users", f"external_id,name,email\n{rows}", "text/csv")
        assert (again[-1]["done"], again[-1]["failed"]) == (1200, 0)
        broken = "{}\n[1]\n\n" + '{"external_id": "u1", "name": "One"}\n{"external_id": \n'
        told = await load("users", broken, "application/x-ndjson")
        assert [error["line"] for error in told[0]["errors"]] == [1, 2, 5]
        assert (told[-1]["done"], told[-1]["failed"], told[-1]["total"]) == (1, 3, 4)
        addresses = [
            {"external_id": "u1", "channel": "apns", "address": apns_token(1)},
            {"external_id": "u2", "channel": "apns", "address": "short"},
            {"external_id": "nobody", "channel": "apns", "address": apns_token(2)},
        ]
        lines = "\n".join(msgspec.json.encode(line).decode() for line in addresses)
        told = await load("addresses", lines, "application/x-ndjson")
        assert [error["code"] for error in told[0]["errors"]] == ["bad_device_token", "user_not_found"]
        told = await load("groups", "group,external_id\nvip,u1\nvip,u2\n", "text/csv")
        assert told[-1]["done"] == 2
        rule = {"name": "news", "channels": ["apns", "email"]}
        await backend.json("PUT", "/v1/app/notify/types/news", json=rule)
        wanted = {"type": "news", "group": "vip", "title": "T", "text": "B"}
        accepted = await backend.json("POST", "/v1/notifications", 202, json=wanted)
        await sandbox.wait_for("apns", 1)
        await sandbox.wait_for("smtp", 2)
        while True:  # that all were asked is stored after what they are sent
            info = await backend.json("GET", f"/v1/notifications/requests/{accepted['request_id']}")
            if info["state"] == "done":
                break
            await trio.sleep(0.01)
        assert info["user_count"] == 2


async def test_an_app_is_told_what_happens_and_what_failed(tmp_path: Path) -> None:
    """Analytics follow by webhook; a dead letter reaches a person."""
    async with open_sandbox() as sandbox, open_api(tmp_path) as api, open_webhooks() as hooks:
        backend = await backend_of(api)
        await with_sandbox(backend, sandbox, "apns", "smtp")
        ann = await backend.user("ann")
        await backend.json(
            "POST", f"/v1/app/users/{ann}/addresses", json={"channel": "apns", "address": apns_token(1)}
        )
        rules = {
            "alert_email": "dev@example.org",
            "event_webhook": f"{hooks.url}/events",
            "alert_webhook": f"{hooks.url}/alerts",
        }
        await backend.json("PUT", "/v1/app/notify/rules", json=rules)
        sandbox.inject(Fault(channel="apns", status=400, code="BadTopic", times=1))
        wanted = {"type": "contact", "user_id": ann, "text": "x"}
        await backend.json("POST", "/v1/notifications", 202, json=wanted)
        await hooks.until_told_at("/events", "/alerts")
        setup = await backend.json("GET", "/v1/app/notify")
        for path, body, headers in hooks.received:
            signature = hmac.new(setup["webhook_key"].encode(), body, "sha256").hexdigest()
            assert headers["x-hubbub-signature"] == signature, path
        alert = next(msgspec.json.decode(body) for path, body, _ in hooks.received if path == "/alerts")
        assert (alert["kind"], alert["detail"]["code"]) == ("dead_letter", "BadTopic")
        events = b"".join(body for path, body, _ in hooks.received if path == "/events")
        kinds = [msgspec.json.decode(line)["kind"] for line in events.splitlines()]
        assert kinds[0] == "decided"
        (mail,) = await sandbox.wait_for("smtp", 1)
        assert mail.address == "dev@example.org"
        assert "BadTopic" in str(mail.content)
        dead = await backend.json("GET", "/v1/app/notify/dead_letters")
        assert [item["code"] for item in dead["items"]] == ["BadTopic"]
        (item,) = dead["items"]
        asked = {"deliveries": [[item["notification_id"], item["number"]], [item["notification_id"], 7]]}
        done = await backend.json("POST", "/v1/app/notify/dead_letters/redrive", 202, json=asked)
        assert done["count"] == 1  # there is no delivery 7
        await sandbox.wait_for("apns", 1)
        done = await backend.json("POST", "/v1/app/notify/dead_letters/redrive", 202, json={"all": True})
        assert done["count"] == 0


@pytest.mark.parametrize(
    ("fault", "state"),
    [
        (Fault(channel="twilio", receipts_doubled=True), "confirmed"),
        (Fault(channel="twilio", receipts_reversed=True), "confirmed"),
        (Fault(channel="twilio", receipt="undelivered", receipt_code="30003"), "refused"),
    ],
)
async def test_receipts_of_sms_move_a_delivery_on_whatever_their_order(
    tmp_path: Path, fault: Fault, state: str
) -> None:
    """Twilio's callbacks may be late, doubled and out of order; forged ones are refused."""
    async with open_sandbox() as sandbox, open_api(tmp_path) as api:
        backend = await backend_of(api)
        assert api.notifications is not None
        api.notifications.links.base_url = str(api.client.base_url).rstrip("/")
        await with_sandbox(backend, sandbox, "twilio")
        ann = await backend.user("ann")
        await backend.json(
            "POST", f"/v1/app/users/{ann}/addresses", json={"channel": "sms", "address": "+4915112345678"}
        )
        await backend.json("PUT", "/v1/app/notify/types/code", json={"name": "code", "channels": ["sms"]})
        sandbox.inject(fault)
        wanted = {"type": "code", "user_id": ann, "text": "4711"}
        accepted = await backend.json("POST", "/v1/notifications", 202, json=wanted)
        notification_id = accepted["items"][0]["notification_id"]
        while True:
            told = await backend.json("GET", f"/v1/notifications/{notification_id}/explain")
            if told["deliveries"][0]["state"] == state:
                break
            await trio.sleep(0.02)
        kinds = [entry["kind"] for entry in told["ledger"]]
        assert kinds.count("told") == 1, kinds
        link = api.notifications.links.called(notification_id, 0, "default", "twilio")
        path = link.removeprefix(api.notifications.links.base_url)
        form = {"MessageSid": "SM1", "MessageStatus": "delivered"}
        forged = await api.call("POST", path, data=form, headers={"x-twilio-signature": "x"})
        assert code_of(forged) == (401, "bad_signature")


@pytest.mark.parametrize("is_doubled", [False, True])
async def test_what_one_provider_cannot_deliver_goes_by_the_next_once(
    tmp_path: Path, is_doubled: bool
) -> None:
    """Twilio takes it, and tells a moment later that it did not get through; another carrier may."""
    async with open_sandbox() as sandbox, open_api(tmp_path) as api:
        backend = await backend_of(api)
        assert api.notifications is not None
        api.notifications.links.base_url = str(api.client.base_url).rstrip("/")
        await with_sandbox(backend, sandbox, "twilio", "vonage")
        ann = await backend.user("ann")
        await backend.json(
            "POST", f"/v1/app/users/{ann}/addresses", json={"channel": "sms", "address": "+4915112345678"}
        )
        await backend.json("PUT", "/v1/app/notify/types/code", json={"name": "code", "channels": ["sms"]})
        fault = Fault(
            channel="twilio", receipt="undelivered", receipt_code="30008", receipts_doubled=is_doubled
        )
        sandbox.inject(fault)
        sandbox.inject(Fault(channel="vonage", receipt="undelivered"))
        wanted = {"type": "code", "user_id": ann, "text": "4711"}
        accepted = await backend.json("POST", "/v1/notifications", 202, json=wanted)
        notification_id = accepted["items"][0]["notification_id"]
        while True:
            told = await backend.json("GET", f"/v1/notifications/{notification_id}/explain")
            if told["deliveries"][0]["state"] == "refused":
                break
            await trio.sleep(0.02)
        assert (sandbox.count("twilio"), sandbox.count("vonage")) == (1, 1)
        assert told["deliveries"][0]["provider_id"] == "vonage"
        rows = await api.store.notify.deliveries(notification_id)
        assert [(row.outgoing, row.is_open) for row in rows] == [("", False)]
