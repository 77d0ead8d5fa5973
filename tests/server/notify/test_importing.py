"""Users and addresses from files: what a file says holds, and what it says wrongly is told."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from protocol.notify_records import NotifyDeviceRow
from server.sandbox.sandbox import open_sandbox
from tests.server.http_world import Api, code_of, open_api
from tests.server.notify.notify_world import apns_token
from tests.server.notify.test_http_notify import Backend, backend_of, with_sandbox

Load = Callable[[str, str], Awaitable[Any]]


def loader(api: Api, backend: Backend) -> Load:
    """Import a CSV; returns what the first report says."""

    async def load(kind: str, text: str) -> Any:
        headers = backend.basic | {"content-type": "text/csv"}
        told = await api.call("POST", f"/v1/app/import/{kind}", content=text.encode(), headers=headers)
        return msgspec.json.decode(told.text.splitlines()[0])

    return load


async def test_an_address_that_is_imported_is_its_former_users_no_more(tmp_path: Path) -> None:
    """A phone that was sold: what is for Ann must not light up in Ben's hand."""
    async with open_sandbox() as sandbox, open_api(tmp_path) as api:
        backend = await backend_of(api)
        await with_sandbox(backend, sandbox, "apns")
        ann, ben = await backend.user("ann"), await backend.user("ben")
        address = {"channel": "apns", "address": apns_token(1)}
        await backend.json("POST", f"/v1/app/users/{ann}/addresses", json=address)
        told = await loader(api, backend)(
            "addresses", f"external_id,channel,address\nben,apns,{apns_token(1)}\n"
        )
        assert told["done"] == 1
        rule = {"name": "t", "channels": ["apns"]}
        await backend.json("PUT", "/v1/app/notify/types/t", json=rule)
        for user_id in (ann, ben):
            wanted = {"type": "t", "user_id": user_id, "text": f"for {user_id}"}
            await backend.json("POST", "/v1/notifications", 202, json=wanted)
        (push,) = await sandbox.wait_for("apns", 1)
        assert push.content["payload"]["aps"]["alert"]["body"] == f"for {ben}"
        rows = await api.store.find(NotifyDeviceRow, {"app_id": "default"})
        assert [row.user_id for row in rows if not row.retired_at_ms] == [ben]


async def test_of_lines_with_one_address_one_user_has_it(tmp_path: Path) -> None:
    """They are taken side by side, and an export of years has a phone with all who ever held it."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        lines = []
        for number in range(20):
            await backend.user(f"u{number}")
            lines.append(f"u{number},apns,{apns_token(1)}\n")
        told = await loader(api, backend)("addresses", f"external_id,channel,address\n{''.join(lines)}")
        assert told["done"] == 20
        rows = await api.store.find(NotifyDeviceRow, {"app_id": "default"})
        assert len([row for row in rows if not row.retired_at_ms]) == 1


async def test_a_wrong_time_zone_is_told_and_mended_by_the_next_import(tmp_path: Path) -> None:
    """Else quiet hours are those of Greenwich, and nobody ever learns why."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        load = loader(api, backend)
        head = "external_id,name,language,time_zone\n"
        told = await load("users", f"{head}a,Ann,de,Europe/Berln\nb,Ben,deutsch!,Europe/Berlin\nc,Cid,,\n")
        assert [(error["line"], error["code"]) for error in told["errors"]] == [
            (2, "bad_field"),
            (3, "bad_field"),
        ]
        assert "Europe/Berln" in told["errors"][0]["message"]
        told = await load("users", f"{head}a,Ann,de,Europe/Berlin\nc,Cyd,fr,Europe/Paris\n")
        assert (told["done"], told["failed"]) == (2, 0)
        users = [found[0] for name in "ac" if (found := await api.store.external_user("default", name))]
        assert [(user.name, user.language, user.time_zone) for user in users] == [
            ("Ann", "de", "Europe/Berlin"),
            ("Cyd", "fr", "Europe/Paris"),
        ]
        await load("users", f"{head}a,,,\n")  # a line without them says nothing of them
        (user, _) = await api.store.external_user("default", "a") or (None, False)
        assert user == users[0]


async def test_a_backend_is_told_of_a_time_zone_that_there_is_not(tmp_path: Path) -> None:
    """Before any of the users is made, and with whose it is."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        for wrong in ({"time_zone": "Europe/Berln"}, {"language": "deutsch!"}):
            users = [{"external_id": "good"}, {"external_id": "wrong", **wrong}]
            refused = await backend.call("POST", "/v1/app/users", json={"users": users})
            assert code_of(refused) == (400, "bad_field")
        assert "wrong" in refused.json()["message"]
        assert await api.store.external_user("default", "good") is None
