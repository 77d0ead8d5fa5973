"""The app of the notification tests: types of its own, set up before its node starts, and a bot."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import trio

from protocol.notify_records import NotifyAppRow, NotifyTypeRow
from protocol.notify_types import TypeRule
from protocol.records import Put
from storage.sqlite import open_store
from tests.web.browser import Node

APP: Final = "default"
TYPES: Final = (
    TypeRule(name="order", title="Orders", is_capped=False),
    TypeRule(
        name="offer", title="Offers", is_capped=False, purpose="marketing", channels=["inapp", "webpush"]
    ),
)


class AppBot:
    """A bot of the app, which may notify the app's users."""

    def __init__(self, node: Node) -> None:
        with httpx.Client(base_url=node.url, auth=node.make_key()) as backend:
            made = backend.post("/v1/app/bots", json={"username": "notifier", "name": "Notifier"})
            token = made.raise_for_status().json()["token"]
        self._http = httpx.Client(base_url=node.url, headers={"Authorization": f"Bearer {token}"})
        self._numbers = count(1)

    def close(self) -> None:
        self._http.close()

    def notify(self, user_id: str, title: str = "", **content: Any) -> int:
        """Notify a user; returns the notification's id."""
        item = self.ask(user_id, title, **content)
        assert item["state"] in ("open", "done", "held", "merged"), item
        return int(item["notification_id"])

    def ask(self, user_id: str, title: str = "", **content: Any) -> dict[str, Any]:
        """Ask for a notification; returns what became of it so far."""
        if not content.get("template"):
            content["title"] = title or f"Order {next(self._numbers)}"
        request = {"type": "order", "user_id": user_id, **content}
        answer = self._http.post("/v1/commands", json={"type": "notify", "id": 1, "request": request})
        answer.raise_for_status()
        item: dict[str, Any] = answer.json()["items"][0]
        return item


async def _set_up(data_dir: Path) -> None:
    async with open_store(data_dir) as store:
        rows = [
            NotifyTypeRow(app_id=APP, name=rule.name, body=msgspec.json.encode(rule).decode())
            for rule in TYPES
        ]
        await store.commit([Put(NotifyAppRow(app_id=APP)), *map(Put, rows)])


@contextmanager
def open_app_bot(node: Node) -> Iterator[AppBot]:
    """A bot for as long as the block lasts."""
    bot = AppBot(node)
    try:
        yield bot
    finally:
        bot.close()


def set_up_types(data_dir: Path) -> None:
    """Give the app its types; no node may run on these data."""
    trio.run(_set_up, data_dir)


def fake_subscription(name: str) -> dict[str, Any]:
    """A subscription that nobody answers at: the point is P-256's base point (SEC 2 section 2.4.2)."""
    p256dh = "BGsX0fLhLEJH-Lzm5WOkQPJ3A32BLeszoPShOUXYmMKWT-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"
    return {"address": f"https://push.invalid/{name}", "keys": {"p256dh": p256dh, "auth": "A" * 22}}
