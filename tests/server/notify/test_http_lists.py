"""What an app has set up and stored can be read whole, page by page, and taken away again."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from protocol.errors import Refused
from protocol.notify_records import DeadDelivery, ErasureRow, RequestRow
from protocol.records import Put
from server.http.cursors import Number, Word, read_cursor, write_cursor
from tests.server.http_world import code_of, open_api
from tests.server.notify.notify_world import apns_token
from tests.server.notify.test_http_notify import Backend, backend_of

AT_MS = 1_700_000_000_000


async def all_pages(backend: Backend, path: str, by: str, items: str = "items") -> list[Any]:
    """Follow `next` to the end."""
    found: list[Any] = []
    cursor = ""
    while True:
        page = await backend.json("GET", f"{path}&{by}={cursor}" if cursor else path)
        found += page[items]
        cursor = page.get("next", "")
        if not cursor:
            return found


async def test_dead_letters_of_one_millisecond_are_all_told(tmp_path: Path) -> None:
    """A campaign with a wrong topic dies at once: who redrives page by page must see each."""
    dead = [
        DeadDelivery(
            notification_id=number // 2,
            number=number % 2,
            partition=0,
            app_id="default",
            channel="apns",
            provider_id="apns",
            code="BadTopic",
            at_ms=AT_MS + number // 20,
        )
        for number in range(30)
    ]
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        await api.store.commit([Put(row) for row in dead])
        found = await all_pages(backend, "/v1/app/notify/dead_letters?limit=7", "after")
        keys = [(row["notification_id"], row["number"]) for row in found]
        assert keys == [(row.notification_id, row.number) for row in dead]
        for cursor in ("x", "é", write_cursor(1, 2), write_cursor(1, 2, 2**63), write_cursor(-1, 0, 0)):
            refused = await backend.call("GET", "/v1/app/notify/dead_letters", params={"after": cursor})
            assert code_of(refused) == (400, "bad_cursor")


async def test_receipts_of_one_millisecond_are_all_told(tmp_path: Path) -> None:
    """They prove that it was done: one that is not shown is none."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        ann = await backend.user("ann")
        rows = [
            ErasureRow(
                erasure_id=f"er_{number}",
                app_id="default",
                user_id=ann,
                purpose="",
                reason="requested",
                at_ms=AT_MS,
                counts="{}",
            )
            for number in range(5)
        ]
        await api.store.commit([Put(row) for row in rows])
        found = await all_pages(backend, f"/v1/app/users/{ann}/erasures?limit=2", "after")
        assert [row["erasure_id"] for row in found] == [row.erasure_id for row in rows]


async def test_requests_are_told_from_the_newest_on(tmp_path: Path) -> None:
    """Who looks for what was asked for this morning does not read all that was ever asked."""
    rows = [
        RequestRow(
            request_id=f"rq_{9 - number}",
            app_id="default",
            digest="",
            body='{"type":"contact","group":"*","text":"x"}',
            state="done" if number % 2 else "cancelled",
            created_at_ms=AT_MS + number // 2,
            done_at_ms=AT_MS + 60_000,
        )
        for number in range(9)
    ]
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        await api.store.commit([Put(row) for row in rows])
        newest = sorted(rows, key=lambda row: (row.created_at_ms, row.request_id), reverse=True)
        path = "/v1/notifications/requests?limit=2"
        found = await all_pages(backend, path, "before")
        assert [row["request_id"] for row in found] == [row.request_id for row in newest]
        found = await all_pages(backend, f"{path}&state=done", "before")
        assert [row["request_id"] for row in found] == [
            row.request_id for row in newest if row.state == "done"
        ]
        assert code_of(await backend.call("GET", f"{path}&state=lost")) == (400, "bad_field")


async def test_groups_and_their_users_can_be_read(tmp_path: Path) -> None:
    """Before a campaign goes to a name, its author looks who that is."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        users = sorted([await backend.user(f"u{number}") for number in range(5)])
        for name in ("vip", "beta", "staff"):
            await backend.json("POST", f"/v1/app/groups/{name}", json={"add": users})
        assert await all_pages(backend, "/v1/app/groups?limit=2", "after") == ["beta", "staff", "vip"]
        assert await all_pages(backend, "/v1/app/groups/vip?limit=2", "after", "user_ids") == users
        await backend.call("POST", f"/v1/app/users/{users[0]}/disable")
        assert (await backend.json("GET", "/v1/app/groups/vip"))["user_ids"] == users[1:]
        assert code_of(await backend.call("GET", "/v1/app/groups/none")) == (404, "group_not_found")
        other = await backend_of(api, await api.other_app())
        assert await other.json("GET", "/v1/app/groups") == {"items": []}
        assert code_of(await other.call("GET", "/v1/app/groups/vip")) == (404, "group_not_found")


async def test_a_users_addresses_can_be_read(tmp_path: Path) -> None:
    """Support is asked why nothing comes: is there a phone at all? The token itself stays ours."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        ann = await backend.user("ann")
        path = f"/v1/app/users/{ann}/addresses"
        made = await backend.json("POST", path, json={"channel": "apns", "address": apns_token(255)})
        told = await backend.call("GET", path)
        assert told.json()["items"] == made["items"]
        assert apns_token(255) not in told.text
        await backend.json("DELETE", f"{path}/{made['items'][0]['device_key']}", 204)
        assert (await backend.json("GET", path)).get("items", []) == []
        other = await backend_of(api, await api.other_app())
        assert code_of(await other.call("GET", path)) == (404, "user_not_found")


async def test_a_template_that_is_removed_gives_way_to_the_built_in_one(tmp_path: Path) -> None:
    """And one of its name that comes later is not taken for it, on no node."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        ann = await backend.user("ann")
        path = "/v1/app/notify/templates/like"

        async def put(text: str) -> int:
            texts = {"default": {"en": {"default": {"title": text}}}}
            stored = await backend.json("PUT", path, json={"name": "like", "texts": texts})
            version: int = stored.get("version", 1)
            return version

        async def title(text: str) -> str:
            wanted = {"type": "contact", "user_id": ann, "template": "like", "subject": text}
            accepted = await backend.json("POST", "/v1/notifications", 202, json=wanted)
            told = await backend.json("GET", f"/v1/notifications/{accepted['items'][0]['notification_id']}")
            found: str = told.get("title", "") or told.get("text", "")
            return found

        assert await put("Mine") == 1
        assert await title("1") == "Mine"
        await backend.json("DELETE", path, 204)
        assert await title("2") == "1 new like"
        assert code_of(await backend.call("DELETE", path)) == (404, "template_not_found")
        assert await backend.json("GET", "/v1/app/notify/templates") == {"items": []}
        assert await put("Anew") == 3  # no version is used again
        assert await title("3") == "Anew"
    async with open_api(tmp_path) as api:
        listed = await Backend(api, backend.app_key, backend.secret).json("GET", "/v1/app/notify/templates")
        assert [template["version"] for template in listed["items"]] == [3]


async def test_an_experiment_is_removed_before_its_template(tmp_path: Path) -> None:
    """Else its requests would fail one by one."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        texts = {name: {"en": {"default": {"body": name}}} for name in ("default", "short")}
        template, experiment = "/v1/app/notify/templates/t", "/v1/app/notify/experiments/e"
        await backend.json("PUT", template, json={"name": "t", "texts": texts})
        wanted = {"name": "e", "template": "t", "variants": {"default": 1, "short": 1}}
        await backend.json("PUT", experiment, json=wanted)
        assert code_of(await backend.call("DELETE", template)) == (400, "bad_request")
        await backend.json("DELETE", experiment, 204)
        assert code_of(await backend.call("GET", experiment)) == (404, "experiment_not_found")
        assert code_of(await backend.call("DELETE", experiment)) == (404, "experiment_not_found")
        await backend.json("DELETE", template, 204)


def test_a_cursor_is_read_as_what_it_was_written() -> None:
    """And nothing else is."""
    assert read_cursor(write_cursor(5, "rq_1"), tuple[Number, Word]) == (5, "rq_1")
    with pytest.raises(Refused):
        read_cursor(write_cursor("rq_1", 5), tuple[Number, Word])
    with pytest.raises(Refused):
        read_cursor(msgspec.json.encode([5, "rq_1"]).decode(), tuple[Number, Word])
