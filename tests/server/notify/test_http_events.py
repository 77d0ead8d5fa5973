"""What has happened, read by an app over HTTP, on a node with other apps."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.notify.address import partition_of
from server.http import notify as notify_routes
from storage.notify_reads import SqliteNotifyReads
from tests.server.http_world import open_api
from tests.server.notify.test_http_notify import backend_of


async def test_a_small_apps_events_are_found_behind_any_number_of_anothers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve million entries of another app once took longer than a read may."""
    monkeypatch.setattr(notify_routes, "SPAN", 3)
    spans: list[int] = []
    exported = SqliteNotifyReads.exported

    async def watched(self: SqliteNotifyReads, *args: Any, after: int, upto: int, limit: int) -> Any:
        spans.append(upto - after)
        return await exported(self, *args, after=after, upto=upto, limit=limit)

    monkeypatch.setattr(SqliteNotifyReads, "exported", watched)
    async with open_api(tmp_path) as api:
        other_id = (await api.directory.create_app("small")).app_id
        big, small = await backend_of(api), await backend_of(api, other_id)
        ben = await big.user("ben")
        number = 0
        while partition_of(ann := await small.user(f"ann{number}")) != partition_of(ben):
            number += 1
        for backend, user_id, count in ((big, ben, 20), (small, ann, 2), (big, ben, 5), (small, ann, 3)):
            for _ in range(count):
                number += 1
                body = {"type": "contact", "user_id": user_id, "text": f"{number}"}
                await backend.json("POST", "/v1/notifications", 202, json=body)
        lines = (await small.call("GET", "/v1/app/notify/events")).text.splitlines()
        events = [msgspec.json.decode(line) for line in lines]
        assert [event["user_id"] for event in events] == [ann] * 5
        after = events[2]["cursor"]
        rest = (await small.call("GET", f"/v1/app/notify/events?after={after}&limit=1")).text.splitlines()
        assert rest == [lines[3]]
        assert max(spans) <= 3
